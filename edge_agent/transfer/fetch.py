"""From an approved digest to every blob that this device needs: manifest, model.json, variant.

Three steps, because each names the next: the approval names the manifest, the manifest names
``model.json``, and that says which variant is for this hardware. A local bundle goes the same way:
its blobs are put into the store first, and nothing is missing then.

What a slot holds is copied, not fetched. For the rest the fleet is asked for deltas against what
the slots hold; a delta that does not come, or does not give the blob that was approved, costs
nothing but time: the blob then comes whole. Copying and hashing happen beside the loop.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_agent.errors import AgentError
from edge_agent.transfer.beside import Beside, Worked, at_once, on_worker
from edge_agent.transfer.delta import rebuild_blob
from edge_agent.transfer.pace import Pace
from edge_agent.transfer.partial import require_space
from edge_agent.transfer.pull import HEADROOM_BYTES, BlobPuller
from edge_agent.transfer.shortcut import WORTH_BYTES, DeltaDesk, Shortcut
from edge_agent.trust.approved import ApprovedTarget
from edge_agent.trust.bundle_check import check_manifest, check_model
from edge_agent.update.content import copy_checked, needed_layers
from edge_agent.update.events import Event, FetchDone, FetchFailed, FetchWaits
from edge_agent.update.order import Order
from edge_agent.update.ports import Aside
from edge_contract.codec import DOCUMENT_LIMIT_BYTES
from edge_contract.errors import ContractError, TrustError, WherryError
from edge_contract.layout import BundleDir, fsync_dir
from edge_contract.manifest import MANIFEST_MEDIA_TYPE, Descriptor, Manifest
from edge_contract.messages import BlobAsk, BlobBlock, DeltaAsk, DeltaOffer
from edge_contract.model import MODEL_FILE

log = logging.getLogger("edge_agent")

FULL_REST_S = 30.0
"""After a full disk, doubled each time up to ``FULL_REST_MAX_S``."""
FULL_REST_MAX_S = 600.0


class Network(msgspec.Struct, frozen=True):
    """How a fetcher reaches the fleet; without one it works from files alone.

    ask: sends a question for blocks; False while it cannot be sent.
    ask_delta: sends a question for a delta, likewise.
    held: the files in the slots, as their bundles name them.
    aside: hashes, copies and applies deltas.
    post: receives ``Worked``.
    pace: how much may be under way.
    room_bytes: what a byte budget leaves for blobs now.
    elsewhere: told why a pull failed; True if the next question goes to another source.
    """

    ask: Callable[[BlobAsk], bool]
    ask_delta: Callable[[DeltaAsk], bool]
    held: Callable[[], list[Descriptor]]
    aside: Aside
    post: Callable[[Worked], None]
    pace: Pace
    room_bytes: Callable[[], float] = lambda: float("inf")
    elsewhere: Callable[[str], bool] = lambda reason: False


class BundleFetcher:
    """The update's ``Fetcher``. Fetches one bundle at a time; owned by the loop.

    Args:
        state_dir: holds the blob store.
        network: how to reach the fleet; None: everything is in the store already.
        approved: the approved target of (version, digest); raises ``TrustError``.
        in_slot: a file in a slot that is this blob, if there is one.
        line, hardware: of this device.
        post: receives ``FetchDone`` or ``FetchFailed``, and ``FetchWaits`` on the way.
        monotonic_s: seconds that never go back.
    """

    def __init__(
        self,
        state_dir: Path,
        network: Network | None,
        *,
        approved: Callable[[str, str], ApprovedTarget],
        in_slot: Callable[[str], Path | None],
        line: str,
        hardware: str,
        post: Callable[[Event], None],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._network = network
        if network is None:
            self._beside: Beside = at_once
            self.puller = BlobPuller(state_dir, lambda ask: False, self._step_finished)
        else:
            self._beside = on_worker(network.aside, network.post)
            self.puller = BlobPuller(
                state_dir,
                network.ask,
                self._step_finished,
                pace=network.pace,
                room_bytes=network.room_bytes,
                beside=self._beside,
            )
            self._deltas = DeltaDesk(network.ask_delta, self._pull)
        self._wanted: list[Descriptor] = []
        self._shortcuts: list[Shortcut] = []
        self._approved = approved
        self._in_slot = in_slot
        self._line = line
        self._hardware = hardware
        self._post = post
        self._monotonic_s = monotonic_s
        self._imports_count = 0
        self._ticket: int | None = None
        self._target: ApprovedTarget | None = None
        self._manifest: Manifest | None = None
        self._steps: list[Callable[[], list[Descriptor]]] = []
        self._again_s: float | None = None
        self._waits_count = 0

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
        self._shortcuts = []
        self._again_s, self._waits_count = None, 0
        if self._network is not None:
            self._deltas.cancel()
        self.puller.cancel()

    # What the link hears. -----------------------------------------------------------------------

    def block(self, block: BlobBlock, now_s: float, *, shared: bool = False) -> None:
        """One block came in; ``shared``: it was for all that listen."""
        self.puller.block(block, now_s, shared=shared)

    def offered(self, offer: DeltaOffer, now_s: float) -> None:
        """An answer to a question for a delta."""
        if self._network is not None:
            self._deltas.offered(offer, now_s)

    def refused(self, digest: str, reason: str) -> None:
        """The manager does not serve this blob."""
        if self._network is not None:
            self._deltas.refused(digest)
        self.puller.refused(digest, reason)

    def reconnected(self, now_s: float) -> None:
        """A new connection: what was under way is lost."""
        self.puller.reconnected(now_s)

    def tick(self, now_s: float, *, online: bool) -> None:
        """Ask again for what did not come."""
        if self._network is not None:
            self._deltas.tick(now_s, online=online)
        self.puller.tick(now_s, online=online)
        if self._again_s is not None and now_s >= self._again_s:
            self._again_s = None
            self._pull(self._shortcuts)
            if self._again_s is None and self._ticket is not None:
                self._post(FetchWaits(self._ticket, ""))

    # --------------------------------------------------------------------------------------------

    def blob(self, digest: str) -> Path:
        """Where a blob lies once it is here."""
        return self.puller.blob(digest)

    def clean(self) -> None:
        """Remove every blob and what was left of others: the slots hold what is needed.

        Not while a bundle is being copied into the store: its order comes after the copy, and
        cleans when it ends.
        """
        if not self._imports_count:
            self.puller.clean()

    def import_begins(self) -> None:
        """A bundle will be copied into the store; nothing is removed until ``import_ended``."""
        self._imports_count += 1

    def import_ended(self) -> None:
        """The copy was made, or given up. What nobody orders of it is removed by ``clean``."""
        self._imports_count -= 1

    def _want(self, descriptors: list[Descriptor]) -> None:
        """Ask for blobs, but for those that a slot holds already."""
        self._wanted, self._shortcuts = descriptors, []
        self._beside(
            lambda: self._gather(descriptors), lambda reason: self._gathered(descriptors, reason)
        )

    def _gather(self, descriptors: list[Descriptor]) -> str:
        """Copy what a slot holds into the store."""
        for descriptor in descriptors:
            target = self.puller.blob(descriptor.digest)
            kept = None if target.exists() else self._in_slot(descriptor.digest)
            if kept is None:
                continue
            part = target.with_name(f".{target.name}.part")
            try:
                part.unlink(missing_ok=True)
                copy_checked(kept, part, descriptor)
                part.replace(target)
            except (OSError, TrustError):
                # Damaged or gone meanwhile: it is fetched like any other.
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)
        return ""

    def _gathered(self, descriptors: list[Descriptor], reason: str) -> None:
        if self._ticket is None or self._wanted is not descriptors:
            return  # given up meanwhile
        if reason:
            self._fail(reason, refused=False)
            return
        questions = self._questions(descriptors)
        if questions and self._network is not None:
            self._deltas.begin(questions, self._monotonic_s())
        else:
            self._pull([])

    def _questions(self, descriptors: list[Descriptor]) -> list[tuple[Descriptor, list[str]]]:
        """What to ask deltas for: larger blobs of which nothing is here, and their likely bases."""
        if self._network is None:
            return []
        held = self._network.held()
        questions = []
        for wanted in {item.digest: item for item in descriptors}.values():
            here = self.puller.blob(wanted.digest).exists() or self.puller.begun(wanted)
            if wanted.size < WORTH_BYTES or here:
                continue
            near = [h for h in held if h.media_type == wanted.media_type and h.size]
            near = [h for h in near if wanted.size / 4 <= h.size <= 4 * wanted.size]
            near.sort(key=lambda h, path=wanted.path: h.path != path)  # type: ignore[misc]
            if near:
                questions.append((wanted, list(dict.fromkeys(h.digest for h in near))))
        return questions

    def _pull(self, shortcuts: list[Shortcut]) -> None:
        """Pull what is wanted, some of it by way of deltas."""
        self._shortcuts = shortcuts
        instead = {item.wanted.digest: item.delta for item in shortcuts}
        wanted = [instead.get(item.digest, item) for item in self._wanted]
        for item in shortcuts:
            log.info(
                "update: %s comes as a delta of %d of %d bytes",
                item.wanted.path or item.wanted.digest[:19],
                item.delta.size,
                item.wanted.size,
            )
        results_bytes = sum(item.wanted.size for item in shortcuts)
        self.puller.want(wanted, self._monotonic_s(), beside_bytes=results_bytes)

    def _whole(self, reason: str) -> None:
        log.warning("update: %s; the blob is fetched whole", reason)
        self._pull([])

    def _step_finished(self, reason: str) -> None:
        if self._ticket is None:
            return
        if reason and self.puller.full and self._network is not None:
            self._wait_for_room(reason)
        elif reason and self._shortcuts:
            self._whole(reason)
        elif reason and self._network is not None and self._network.elsewhere(reason):
            self._pull([])
        elif reason:
            self._fail(reason, refused=False)
        elif self._shortcuts:
            self._rebuild()
        else:
            self._next_step()

    def _wait_for_room(self, reason: str) -> None:
        """A full disk is no fault of the version, and may be emptied: what came stays, and the pull
        goes on later, by the clock that never jumps."""
        assert self._ticket is not None
        pause_s = min(FULL_REST_S * 2.0 ** min(self._waits_count, 16), FULL_REST_MAX_S)
        self._waits_count += 1
        self._again_s = self._monotonic_s() + pause_s
        self._post(FetchWaits(self._ticket, reason))

    def _rebuild(self) -> None:
        shortcuts = list(self._shortcuts)
        wanted = self._wanted

        def work() -> str:
            try:
                for item in shortcuts:
                    base = self._in_slot(item.base)
                    if base is None:
                        raise AgentError(f"delta: its base {item.base[:19]}… is gone")
                    delta, target = self.blob(item.delta.digest), self.blob(item.wanted.digest)
                    rebuild_blob(delta, base, target, item.wanted)
                    delta.unlink(missing_ok=True)
            except (WherryError, OSError) as failure:
                return str(failure)
            return ""

        self._beside(work, lambda reason: self._rebuilt(wanted, reason))

    def _rebuilt(self, wanted: list[Descriptor], reason: str) -> None:
        """The deltas of this fetch were applied, or one of them failed."""
        if self._ticket is None or self._wanted is not wanted:
            return  # given up meanwhile
        self._shortcuts = []
        if reason:
            self._whole(reason)
        else:
            self._next_step()

    def _next_step(self) -> None:
        self._waits_count = 0
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
        if ticket is not None:
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
        AgentError: the disk refuses, or has no room for all of it.
    """
    bundle.verify()
    missing = [item for item in bundle.descriptors() if not blob_path(item.digest).exists()]
    if missing:
        # Nothing is approved yet: whoever hands in a bundle must not fill the disk or the memory.
        room = sum(item.size for item in {item.digest: item for item in missing}.values())
        require_space(blob_path(missing[0].digest).parent, room + HEADROOM_BYTES)
    for descriptor in missing:
        target = blob_path(descriptor.digest)
        if target.exists():  # two files of the same content
            continue
        part = target.with_name(f".{target.name}.part")
        try:
            part.unlink(missing_ok=True)
            copy_checked(bundle.blob_path(descriptor.digest), part, descriptor)
            part.replace(target)
            fsync_dir(target.parent)
        except OSError as error:
            raise AgentError(f"cannot copy the bundle to {target.parent}: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
