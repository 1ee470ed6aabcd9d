"""Installing a bundle from a file on a device whose agent runs: the same checks, the same machine.

The owner's word takes the place of a director's order; the approval by a threshold of keys is
demanded all the same. Later orders of a fleet supersede it as they supersede any other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.api import Request
from edge_agent.errors import AgentError
from edge_agent.orders import OrderDesk
from edge_agent.transfer.fetch import BundleFetcher, import_bundle
from edge_agent.update.events import Event, Ordered
from edge_agent.update.order import LOCAL, Order
from edge_agent.update.ports import Aside
from edge_agent.update.state import UpdateState
from edge_contract.errors import ContractError, ExitCode, WherryError
from edge_contract.health import HealthSpec
from edge_contract.layout import BundleDir
from edge_contract.messages import TERMINAL_PHASES, Phase
from edge_contract.metadata import MetadataSet, decode_metadata_set
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
    model = decode_model_manifest(bundle.read_file(MODEL_FILE), where=str(bundle_path))
    places = [bundle_path / APPROVAL_FILE, bundle_path.parent / APPROVAL_FILE]
    found = approval_path or next((place for place in places if place.is_file()), None)
    if found is None or not found.is_file():
        raise AgentError(
            f"no approval for {bundle_path}: looked for {approval_path or places[1]}",
            hint=f"on the machine with the keys: edge-fleet publish {bundle_path}"
            f" --approval {APPROVAL_FILE}",
            exit_code=ExitCode.AUTH,
        )
    approval = decode_metadata_set(found.read_bytes(), where=str(found))
    return LocalBundle(bundle, model, approval)


def local_order(
    local: LocalBundle, desk: OrderDesk, state: UpdateState, health: HealthSpec
) -> Order:
    """Verify the approval and make the order that the update machine carries out.

    Raises:
        TrustError: the bundle is not approved, as this device's root has it.
    """
    desk.approve(local.approval)
    desk.target(local.model.version, local.bundle.digest)
    epoch, seq = max(state.seen, (desk.desired_epoch, desk.desired_seq), (0, 0))
    return Order(
        epoch=epoch,
        seq=seq + 1,
        digest=local.bundle.digest,
        line=local.model.name,
        version=local.model.version,
        rollout=LOCAL,
        health=health,
    )


class Imported(msgspec.Struct, frozen=True):
    """The worker has copied a local bundle into the blob store, or could not (``error``)."""

    order: Order
    error: WherryError | None


class LocalInstall:
    """Serves ``edge-agent install`` while the agent runs. Owned by the loop.

    Args:
        desk: verifies the approval.
        fetcher: whose blob store takes the bundle.
        aside: copies it.
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
        self._request: Request | None = None
        self._key: tuple[int, int] = (-1, -1)

    def begin(self, request: Request) -> None:
        """A client asks for an installation.

        Raises:
            AgentError: another one is under way, or another root is meant than the agent's.
            ContractError, TrustError: the bundle or its approval is refused.
        """
        if self._request is not None and not self._request.given_up:
            raise AgentError("another installation from a file is under way")
        body = request.body
        try:
            bundle, trust = Path(str(body["bundle"])), Path(str(body["trust"]))
            approval = Path(str(body["approval"])) if body.get("approval") else None
            root = trust.read_bytes()
        except (KeyError, OSError) as error:
            raise ContractError(f"install: cannot read what was named: {error}") from error
        if root != self._root:
            raise AgentError(
                f"{trust} is not the root that this agent trusts",
                hint="stop the agent, set trust.root in its configuration, and start it again",
                exit_code=ExitCode.AUTH,
            )
        local = read_local_bundle(bundle, approval)
        order = local_order(local, self._desk, self._state(), self._health)
        self._request, self._key = request, order.key
        self._aside.start(lambda: self._copy(local, order))

    def imported(self, event: Imported) -> None:
        """The copy ended: order the installation."""
        if event.error is not None:
            self._finish(event.error.as_json())
            return
        if self._state().seen >= event.order.key:
            # The machine would ignore it without a word, and the client would wait for ever.
            error = AgentError("an order of the fleet came meanwhile", hint="edge-agent status")
            self._finish(error.as_json())
            return
        self._order(Ordered(event.order))

    def hear(self, order: Order, phase: Phase, text: str) -> None:
        """The update machine reports a step; the client of that order hears it."""
        if self._request is None or order.key != self._key:
            return
        if phase in TERMINAL_PHASES:
            code = ExitCode.OK if phase == "committed" else ExitCode.FAILURE
            body = {"phase": phase, "text": text}
            self._finish(body if code is ExitCode.OK else {**body, "error": text, "code": code})
        else:
            self._request.say(phase=phase, text=text)

    def _copy(self, local: LocalBundle, order: Order) -> None:
        error: WherryError | None = None
        try:
            import_bundle(local.bundle, self._fetcher.blob)
        except WherryError as trouble:
            error = trouble
        except OSError as trouble:
            error = AgentError(f"cannot read the bundle: {trouble}")
        self._post(Imported(order, error))

    def _finish(self, body: dict[str, Any]) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.finish(**body)
