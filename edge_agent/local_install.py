"""Installing a bundle from a file on a device whose agent runs: the same checks, the same machine.

The owner's word takes the place of a director's order; the approval by a threshold of keys is
demanded all the same. Later orders of a fleet supersede it as they supersede any other.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from edge_agent.api import Request
from edge_agent.errors import AgentError
from edge_agent.install_client import InstallClient
from edge_agent.orders import OrderDesk
from edge_agent.transfer.fetch import BundleFetcher, import_bundle
from edge_agent.update.events import Event, Ordered
from edge_agent.update.order import LOCAL, Order
from edge_agent.update.ports import Aside
from edge_agent.update.state import UpdateState
from edge_contract.codec import DOCUMENT_LIMIT_BYTES
from edge_contract.errors import ContractError, ExitCode, WherryError
from edge_contract.health import HealthSpec
from edge_contract.layout import BundleDir
from edge_contract.messages import Phase
from edge_contract.metadata import METADATA_FILE_LIMIT_BYTES, MetadataSet, decode_metadata_set
from edge_contract.model import MODEL_FILE, ModelManifest, decode_model_manifest

APPROVAL_FILE = "approval.json"


class LocalBundle(msgspec.Struct, frozen=True):
    """A bundle and its approval, read from files and well-formed; not yet verified."""

    bundle: BundleDir
    model: ModelManifest
    approval: MetadataSet


def read_local_bundle(bundle_path: Path, approval_path: Path | None) -> LocalBundle:
    """Read a bundle directory and its approval.

    Args:
        bundle_path: the OCI layout.
        approval_path: the signed metadata; None: ``approval.json`` in or beside the bundle.

    Raises:
        AgentError: no approval there.
        ContractError, TrustError: malformed or damaged.
    """
    bundle = BundleDir(bundle_path)
    model = decode_model_manifest(
        bundle.read_file(MODEL_FILE, DOCUMENT_LIMIT_BYTES), where=str(bundle_path)
    )
    places = [bundle_path / APPROVAL_FILE, bundle_path.parent / APPROVAL_FILE]
    found = approval_path or next((place for place in places if place.is_file()), None)
    if found is None or not found.is_file():
        raise AgentError(
            f"no approval for {bundle_path}: looked for {approval_path or places[1]}",
            hint=f"on the machine with the keys: edge-fleet publish {bundle_path}"
            f" --approval {APPROVAL_FILE}",
            exit_code=ExitCode.AUTH,
        )
    with open_file(found) as file:
        data = file.read(METADATA_FILE_LIMIT_BYTES + 1)
    approval = decode_metadata_set(data, where=str(found), limit_bytes=METADATA_FILE_LIMIT_BYTES)
    return LocalBundle(bundle, model, approval)


def open_file(path: Path) -> BinaryIO:
    """Open a plain file for reading; what is a pipe or a device would be waited for.

    Raises:
        OSError: it is none, or cannot be read.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return file


def local_order(
    local: LocalBundle, desk: OrderDesk, state: UpdateState, health: HealthSpec
) -> Order:
    """Verify the approval and make the order that the update machine carries out.

    Raises:
        TrustError: the bundle is not approved, as this device's root has it.
    """
    desk.approve(local.approval)
    desk.target(local.model.version, local.bundle.digest)
    epoch, seq = desk.next_by_hand(state.seen)
    return Order(
        epoch=epoch,
        seq=seq,
        digest=local.bundle.digest,
        line=local.model.name,
        version=local.model.version,
        rollout=LOCAL,
        origin="file",
        health=health,
    )


class Imported(msgspec.Struct, frozen=True):
    """The worker has read a local bundle's documents, or (``copied``) put all of it into the blob
    store; or could not (``error``)."""

    request: Request
    local: LocalBundle | None
    error: WherryError | None
    copied: bool


class LocalInstall:
    """Serves ``edge-agent install`` while the agent runs. Owned by the loop.

    What a client names may lie on a slow card, or be no file at all: the worker reads it.

    Args:
        desk: verifies the approval.
        fetcher: whose blob store takes the bundle.
        aside: reads and copies it.
        post: receives ``Imported``.
        order: hands an update event to the update machine.
        state: the update machine's state.
        health: the device's own policy.
        root: the trust root that the agent was configured with.
    """

    def __init__(
        self,
        desk: OrderDesk,
        fetcher: BundleFetcher,
        aside: Aside,
        *,
        post: Callable[[Imported], None],
        order: Callable[[Event], None],
        state: Callable[[], UpdateState],
        health: HealthSpec,
        root: bytes,
    ) -> None:
        self._desk = desk
        self._fetcher = fetcher
        self._aside = aside
        self._post = post
        self._order = order
        self._state = state
        self._health = health
        self._root = root
        self._client = InstallClient(fetcher, state)

    def begin(self, request: Request) -> None:
        """A client asks for an installation.

        Raises:
            AgentError: another one is under way.
            ContractError: the request names no bundle or no root.
        """
        body = request.body
        try:
            bundle, trust = Path(str(body["bundle"])), Path(str(body["trust"]))
        except KeyError as error:
            raise ContractError(f"install: the request lacks {error}") from error
        approval = Path(str(body["approval"])) if body.get("approval") else None
        self._client.come(request, busy="another installation from a file is under way")

        def read() -> LocalBundle:
            self._require_root(trust)
            return read_local_bundle(bundle, approval)

        self._work(request, read, copied=False)

    def imported(self, event: Imported) -> None:
        """The documents were read: have the rest copied. It was copied: order the installation."""
        if event.copied:
            self._fetcher.import_ended()
        local, request = event.local, event.request
        if not self._client.waits(request):
            self._client.clean_at_rest()
            return
        try:
            if event.error is not None or local is None:
                raise event.error or AgentError("the bundle was not read; look into the log")
            order = local_order(local, self._desk, self._state(), self._health)
        except (WherryError, OSError) as error:
            self._client.refuse(error)
            return
        if event.copied:
            self._client.ordered(order)
            self._order(Ordered(order))
            return

        def copy() -> LocalBundle:
            import_bundle(local.bundle, self._fetcher.blob)
            return local

        self._fetcher.import_begins()
        self._work(request, copy, copied=True)

    def hear(self, order: Order, phase: Phase, text: str) -> None:
        """The update machine reports a step; the client of that order hears it."""
        if self._client.hears(order, phase):
            self._client.tell(phase, text)

    def _work(self, request: Request, work: Callable[[], LocalBundle], *, copied: bool) -> None:
        """Have the worker do one of the two steps, and tell the loop in any case."""

        def run() -> None:
            local: LocalBundle | None = None
            error: WherryError | None = None
            try:
                local = work()
            except WherryError as trouble:
                error = trouble
            except OSError as trouble:
                error = AgentError(f"cannot read the bundle: {trouble}")
            finally:
                self._post(Imported(request, local, error, copied))

        self._aside.start(run)

    def _require_root(self, trust: Path) -> None:
        try:
            with open_file(trust) as file:
                root = file.read(len(self._root) + 1)
        except OSError as error:
            raise ContractError(f"install: cannot read {trust}: {error.strerror}") from error
        if root != self._root:
            raise AgentError(
                f"{trust} is not the root that this agent trusts",
                hint="stop the agent, set trust.root in its configuration, and start it again",
                exit_code=ExitCode.AUTH,
            )
