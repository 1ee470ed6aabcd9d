"""Installing what a medium brings, on a device whose agent runs; the answer carries a receipt.

First the bundle is copied into the blob store, checked by its digests: a medium that is pulled out
then costs nothing. Only then the medium's documents are verified and its sequence is spent. From
there it is an order like any other. Owned by the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_agent.api import Request
from edge_agent.apply import receipt_body
from edge_agent.errors import AgentError
from edge_agent.install_client import InstallClient
from edge_agent.local_install import open_file
from edge_agent.orders import OrderDesk
from edge_agent.repeated_medium import require_repeatable
from edge_agent.transfer.fetch import BundleFetcher, import_bundle
from edge_agent.update.events import Event, Ordered
from edge_agent.update.order import Order
from edge_agent.update.ports import Aside
from edge_agent.update.state import UpdateState
from edge_contract.errors import WherryError
from edge_contract.health import HealthSpec, tighten
from edge_contract.layout import BundleDir
from edge_contract.media import MEDIA_FILE, MediaSet, decode_media_set
from edge_contract.messages import TERMINAL_PHASES, Phase
from edge_contract.receipt import Receipt, SignedMessage

_READ_MAX_BYTES = 32 << 20


class MediumCopied(msgspec.Struct, frozen=True):
    """The worker has copied a medium's bundle into the blob store, or could not (``error``)."""

    request: Request
    media: MediaSet | None
    digest: str
    error: WherryError | None


class MediumInstall:
    """Serves ``edge-agent apply``.

    Args:
        device: its id, for the receipt.
        desk: verifies the medium's documents.
        fetcher: whose blob store takes the bundle.
        aside: copies it.
        post: receives ``MediumCopied``.
        order: hands an update event to the update machine.
        state: the update machine's state.
        health: the device's own policy.
        status: the status message that was spooled last, as (topic, payload).
        facts: the device's state, as (topic, payload).
        sign: the device's signature over (topic, payload).
    """

    def __init__(
        self,
        device: str,
        desk: OrderDesk,
        fetcher: BundleFetcher,
        aside: Aside,
        *,
        post: Callable[[MediumCopied], None],
        order: Callable[[Event], None],
        state: Callable[[], UpdateState],
        health: HealthSpec,
        status: Callable[[], tuple[str, bytes]],
        facts: Callable[[], tuple[str, bytes]],
        sign: Callable[[str, bytes], str],
    ) -> None:
        self._device = device
        self._desk = desk
        self._fetcher = fetcher
        self._aside = aside
        self._post = post
        self._order = order
        self._state = state
        self._health = health
        self._status = status
        self._facts = facts
        self._sign = sign
        self._client = InstallClient(fetcher, state)
        self._receipt_name = ""
        self._messages: list[SignedMessage] = []

    def begin(self, request: Request) -> None:
        """A client asks to apply the medium at ``medium``; ``again``: though its order failed.

        Raises:
            AgentError: another one is under way.
        """
        self._client.come(request, busy="another medium is being applied")
        medium = Path(str(request.body.get("medium", "")))
        self._messages = []
        self._fetcher.import_begins()
        self._aside.start(lambda: self._copy(request, medium))

    def copied(self, event: MediumCopied) -> None:
        """The bundle is here: verify the medium, and order what it orders."""
        self._fetcher.import_ended()
        if not self._client.waits(event.request):
            self._client.clean_at_rest()
            return
        try:
            if event.error is not None or event.media is None:
                raise event.error or AgentError("the medium could not be read")
            again = event.request.body.get("again") is True
            accepted = self._desk.medium(
                event.media,
                lambda sequence: require_repeatable(self._state(), sequence, again=again),
            )
            epoch, seq = self._desk.next_by_hand(self._state().seen)
            wanted = accepted.order
            if wanted.manifest_digest != event.digest:
                raise AgentError(
                    f"the medium holds bundle {event.digest[:19]}…, its order names"
                    f" {wanted.manifest_digest[:19]}…: export it again"
                )
        except (WherryError, OSError) as error:
            self._client.refuse(error)
            return
        order = Order(
            epoch=epoch,
            seq=seq,
            digest=wanted.manifest_digest,
            line=wanted.line,
            version=wanted.version,
            rollout=wanted.rollout,
            origin="medium",
            medium=wanted.sequence,
            health=tighten(wanted.health, self._health),
        )
        self._client.ordered(order)
        self._receipt_name = f"{wanted.sequence}-{seq}"
        self._order(Ordered(order))

    def hear(self, order: Order, phase: Phase, text: str) -> None:
        """The update machine reports a step, which was spooled: it goes into the receipt, too."""
        if not self._client.hears(order, phase):
            return
        self._messages.append(self._signed(*self._status()))
        if phase not in TERMINAL_PHASES:
            self._client.tell(phase, text)
            return
        self._messages.append(self._signed(*self._facts()))
        receipt = Receipt(device=self._device, messages=self._messages)
        self._client.tell(phase, text, **receipt_body(receipt, self._receipt_name))

    def _signed(self, topic: str, payload: bytes) -> SignedMessage:
        return SignedMessage(topic=topic, payload=payload, signature=self._sign(topic, payload))

    def _copy(self, request: Request, medium: Path) -> None:
        media: MediaSet | None = None
        digest = ""
        error: WherryError | None = AgentError("the medium was not copied; look into the log")
        try:
            with open_file(medium / MEDIA_FILE) as file:
                media = decode_media_set(file.read(_READ_MAX_BYTES), where=str(medium / MEDIA_FILE))
            bundle = BundleDir(medium / "bundle")
            digest = bundle.digest
            import_bundle(bundle, self._fetcher.blob)
            error = None
        except WherryError as trouble:
            error = trouble
        except OSError as trouble:
            error = AgentError(
                f"cannot read the medium at {medium}: {trouble.strerror}; was it pulled out?",
                hint="nothing was changed: put it in again and repeat",
            )
        finally:  # whatever happened: the store is not cleaned before this is heard
            self._post(MediumCopied(request, media, digest, error))
