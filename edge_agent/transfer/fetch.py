"""From an approved digest to every blob that this device needs: manifest, model.json, variant.

Three steps, because each names the next: the approval names the manifest, the manifest names
``model.json``, and that says which variant is for this hardware. A local bundle goes the same way:
its blobs are put into the store first, and nothing is missing then.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_agent.errors import AgentError
from edge_agent.transfer.pull import BlobPuller
from edge_agent.trust.approved import ApprovedTarget
from edge_agent.trust.bundle_check import check_manifest, check_model
from edge_agent.update.content import copy_checked, needed_layers
from edge_agent.update.events import Event, FetchDone, FetchFailed
from edge_agent.update.order import Order
from edge_contract.codec import DOCUMENT_LIMIT_BYTES
from edge_contract.errors import ContractError, TrustError
from edge_contract.layout import BundleDir, write_durably
from edge_contract.manifest import MANIFEST_MEDIA_TYPE, Descriptor, Manifest
from edge_contract.model import MODEL_FILE


class BundleFetcher:
    """The update's ``Fetcher``. Fetches one bundle at a time; owned by the loop.

    Args:
        state_dir: holds the blob store.
        ask: sends a ``BlobAsk`` payload to the manager.
        approved: the approved target of (version, digest); raises ``TrustError``.
        in_slot: a file in a slot that is this blob, if there is one.
        line, hardware: of this device.
        post: receives ``FetchDone`` or ``FetchFailed``.
        monotonic_s: seconds that never go back.
    """

    def __init__(
        self,
        state_dir: Path,
        ask: Callable[[bytes], None],
        *,
        approved: Callable[[str, str], ApprovedTarget],
        in_slot: Callable[[str], Path | None],
        line: str,
        hardware: str,
        post: Callable[[Event], None],
        monotonic_s: Callable[[], float],
    ) -> None:
        self.puller = BlobPuller(state_dir, ask, self._step_finished)
        self._approved = approved
        self._in_slot = in_slot
        self._line = line
        self._hardware = hardware
        self._post = post
        self._monotonic_s = monotonic_s
        self._ticket: int | None = None
        self._target: ApprovedTarget | None = None
        self._manifest: Manifest | None = None
        self._steps: list[Callable[[], list[Descriptor]]] = []

    def start_fetch(self, ticket: int, order: Order) -> None:
        """Begin; a fetch that is under way is given up first."""
        self.cancel()
        try:
            target = self._approved(order.version, order.digest)
        except TrustError as error:
            self._post(FetchFailed(ticket, error.message, refused=True))
            return
        self._ticket, self._target = ticket, target
        self._steps = [self._first_layers, self._needed_layers]
        self._want(
            [
                Descriptor(
                    media_type=MANIFEST_MEDIA_TYPE, digest=target.digest, size=target.length_bytes
                )
            ]
        )

    def cancel(self) -> None:
        """Give up; what was received stays for later."""
        self._ticket = None
        self.puller.cancel()

    def blob(self, digest: str) -> Path:
        """Where a blob lies once it is here."""
        return self.puller.blob(digest)

    def clean(self) -> None:
        """Remove every blob and what was left of others: the slots hold what is needed."""
        self.puller.clean()

    def _want(self, descriptors: list[Descriptor]) -> None:
        """Ask for blobs, but for those that a slot holds already."""
        for descriptor in descriptors:
            kept = self._in_slot(descriptor.digest)
            target = self.puller.blob(descriptor.digest)
            if kept is None or target.exists():
                continue
            part = target.with_name(f".{target.name}.part")
            part.unlink(missing_ok=True)
            try:
                copy_checked(kept, part, descriptor)
                part.replace(target)
            except (OSError, TrustError):
                # Damaged or gone meanwhile: it is fetched like any other.
                part.unlink(missing_ok=True)
        self.puller.want(descriptors, self._monotonic_s())

    def _step_finished(self, reason: str) -> None:
        if self._ticket is None:
            return
        if reason:
            self._fail(reason, refused=False)
            return
        try:
            if self._steps:
                self._want(self._steps.pop(0)())
                return
        except (TrustError, ContractError) as error:
            self._fail(error.message, refused=True)
            return
        except OSError as error:
            self._fail(f"cannot read what was fetched: {error}", refused=False)
            return
        ticket, self._ticket = self._ticket, None
        self._post(FetchDone(ticket))

    def _fail(self, reason: str, *, refused: bool) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._post(FetchFailed(ticket, reason, refused=refused))

    def _first_layers(self) -> list[Descriptor]:
        assert self._target is not None
        self._manifest = check_manifest(self._read(self._target.digest), self._target)
        return [self._manifest.layer(MODEL_FILE)]

    def _needed_layers(self) -> list[Descriptor]:
        assert self._target is not None
        assert self._manifest is not None
        data = self._read(self._manifest.layer(MODEL_FILE).digest)
        model = check_model(data, self._manifest, line=self._line, version=self._target.version)
        return needed_layers(self._manifest, model, self._hardware)

    def _read(self, digest: str) -> bytes:
        with self.puller.blob(digest).open("rb") as file:
            return file.read(DOCUMENT_LIMIT_BYTES)


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
