"""From an approved digest to every blob that this device needs: manifest, model.json, variant.

Three steps, because each names the next: the approval names the manifest, the manifest names
``model.json``, and that says which variant is for this hardware. A local bundle goes the same way:
its blobs are put into the store first, and nothing is missing then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import AgentError
from edge_agent.transfer.pull import BlobPuller
from edge_agent.trust.approved import ApprovedTarget
from edge_agent.trust.bundle_check import check_manifest, check_model, first_blobs, variant_blobs
from edge_contract.codec import DOCUMENT_LIMIT_BYTES
from edge_contract.errors import ContractError, TrustError
from edge_contract.layout import BundleDir, write_durably
from edge_contract.manifest import MANIFEST_MEDIA_TYPE, Descriptor, Manifest
from edge_contract.model import MODEL_FILE


@dataclass(frozen=True)
class Fetched:
    """What a finished fetch left in the blob store.

    blobs: every needed blob, those with a path are the slot's files.
    """

    digest: str
    version: str
    blobs: tuple[Descriptor, ...]


class BundleFetcher:
    """Fetches one bundle at a time. Owned by the loop.

    Args:
        puller: the transport; its ``finished`` callback must be ``step_finished``.
        line, hardware: of this device.
        done: called once a fetch: with what is here, or with (reason, whether the bundle is
            refused for what it is rather than for what went wrong on the way).
    """

    def __init__(
        self,
        puller: BlobPuller,
        *,
        line: str,
        hardware: str,
        done: Callable[[Fetched | None, str, bool], None],
    ) -> None:
        self._puller = puller
        self._line = line
        self._hardware = hardware
        self._done = done
        self._target: ApprovedTarget | None = None
        self._steps: list[Callable[[], list[Descriptor]]] = []
        self._manifest: Manifest | None = None
        self._needed: list[Descriptor] = []
        self._now_s = 0.0

    @property
    def active(self) -> bool:
        """Whether a fetch is under way."""
        return self._target is not None

    def start(self, target: ApprovedTarget, now_s: float) -> None:
        """Begin; a fetch that is under way is given up first."""
        self.cancel()
        self._target = target
        self._now_s = now_s
        self._steps = [self._first_blobs, self._variant_blobs]
        own = Descriptor(
            media_type=MANIFEST_MEDIA_TYPE, digest=target.digest, size=target.length_bytes
        )
        self._puller.want([own], now_s)

    def cancel(self) -> None:
        """Give up; what was received stays for later."""
        self._target = None
        self._puller.cancel()

    def step_finished(self, reason: str) -> None:
        """The puller has everything that it was asked for, or failed."""
        target = self._target
        if target is None:
            return
        if reason:
            self._end(None, reason, refused=False)
            return
        try:
            if self._steps:
                self._puller.want(self._steps.pop(0)(), self._now_s)
            else:
                self._end(Fetched(target.digest, target.version, tuple(self._needed)), "")
        except (TrustError, ContractError) as error:
            self._end(None, error.message, refused=True)
        except OSError as error:
            self._end(None, f"cannot read what was fetched: {error}")

    def tick(self, now_s: float) -> None:
        """Keep the time for the next step."""
        self._now_s = now_s

    def _first_blobs(self) -> list[Descriptor]:
        assert self._target is not None
        self._manifest = check_manifest(self._read(self._target.digest), self._target)
        return first_blobs(self._manifest)

    def _variant_blobs(self) -> list[Descriptor]:
        assert self._target is not None
        assert self._manifest is not None
        data = self._read(self._manifest.layer(MODEL_FILE).digest)
        model = check_model(data, self._manifest, line=self._line, version=self._target.version)
        _, self._needed = variant_blobs(self._manifest, model, self._hardware)
        return self._needed

    def _read(self, digest: str) -> bytes:
        with self._puller.blob(digest).open("rb") as file:
            return file.read(DOCUMENT_LIMIT_BYTES)

    def _end(self, fetched: Fetched | None, reason: str, *, refused: bool = False) -> None:
        self._target = None
        self._done(fetched, reason, refused)


def import_bundle(bundle: BundleDir, blob_path: Callable[[str], Path]) -> None:
    """Put every blob of a local bundle into the store, checked.

    Raises:
        ContractError, TrustError: a blob is missing or damaged.
        AgentError: the disk refuses.
    """
    bundle.verify()
    for descriptor in bundle.descriptors():
        target = blob_path(descriptor.digest)
        if not target.exists():
            try:
                write_durably(target, bundle.read_blob(descriptor.digest, descriptor.size))
            except OSError as error:
                raise AgentError(f"cannot copy the bundle to {target.parent}: {error}") from error
