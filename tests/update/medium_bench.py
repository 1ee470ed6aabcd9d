"""A device that media are applied to: real trust directory, journal, slots and blob store."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.api import Request
from edge_agent.errors import AgentError
from edge_agent.local_install import Imported, LocalInstall
from edge_agent.medium_install import MediumCopied, MediumInstall
from edge_agent.orders import OrderDesk
from edge_agent.transfer.fetch import BundleFetcher
from edge_agent.update.events import Event
from edge_agent.update.order import Order
from edge_contract.digest import hex_of
from edge_contract.health import HealthSpec
from edge_contract.layout import index_for
from edge_contract.media import MEDIA_FILE, encode_media_set
from edge_contract.messages import Phase
from edge_contract.metadata import encode_metadata_set
from tests.agent.test_order_desk import open_desk
from tests.trust.media_simulator import MediaPublisher
from tests.update.bundles import HARDWARE, SPEC, Version
from tests.update.device import Clock, Device
from tests.update.fleet import FLEET


def media_publisher() -> MediaPublisher:
    """A publisher that has approved every version of the simulated fleet."""
    publisher = MediaPublisher()
    for version in FLEET.values():
        publisher.approve(version.version, version.blobs[version.digest])
    return publisher


def write_stick(
    path: Path, publisher: MediaPublisher, version: Version, sequence: int, **changes: object
) -> Path:
    """A medium with this version, right but for ``changes`` of its order."""
    bundle = path / "bundle"
    blobs = bundle / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest, data in version.blobs.items():
        (blobs / hex_of(digest)).write_bytes(data)
    (bundle / "index.json").write_bytes(index_for(version.blobs[version.digest], version.version))
    media = publisher.media_set(
        sequence=sequence,
        version=version.version,
        manifest_digest=version.digest,
        health=SPEC,
        **changes,
    )
    (path / MEDIA_FILE).write_bytes(encode_media_set(media))
    return path


def write_approved(path: Path, publisher: MediaPublisher, version: Version) -> Path:
    """A bundle with its approval and the root beside it, for ``edge-agent install``."""
    bundle = write_stick(path, publisher, version, 1) / "bundle"
    (path / "approval.json").write_bytes(encode_metadata_set(publisher.metadata_set()))
    (path / "root.json").write_bytes(publisher.roots[0])
    return bundle


def last(request: Request) -> dict[str, Any]:
    """The last line that a client hears; it has been said already."""
    while not (reply := request._replies.get_nowait()).get("done"):
        pass
    return reply


class MediumBench:
    """One run of the agent's parts that a medium meets; a restart is a new one on the same path."""

    def __init__(self, state_dir: Path, publisher: MediaPublisher, clock: Clock) -> None:
        self.device = Device(state_dir, FLEET, clock)
        self.desk: OrderDesk = open_desk(state_dir, publisher)
        self.posted: queue.Queue[Any] = queue.Queue()
        self.fetcher = BundleFetcher(
            state_dir,
            None,
            approved=self.desk.target,
            in_slot=self.device.slots.blob,
            line="digits",
            hardware=HARDWARE,
            post=self.posted.put,
            monotonic_s=clock.monotonic_s,
        )
        self.install = MediumInstall(
            "cam-1",
            self.desk,
            self.fetcher,
            self.device,
            post=self.posted.put,
            order=lambda event: self.order(event),
            state=lambda: self.device.manager.state,
            health=HealthSpec(),
            status=lambda: ("status", b"{}"),
            facts=lambda: ("facts", b"{}"),
            sign=lambda topic, payload: "signature",
        )
        self.local = LocalInstall(
            self.desk,
            self.fetcher,
            self.device,
            post=self.posted.put,
            order=lambda event: self.order(event),
            state=lambda: self.device.manager.state,
            health=SPEC,
            root=publisher.roots[0],
        )
        self.device.hear = self._hear
        self.device.clean = self.fetcher.clean  # type: ignore[method-assign]
        self.order: Callable[[Event], None] = self.device.manager.handle
        """The loop's way to the update machine."""

    def _hear(self, order: Order, phase: Phase, reason: str) -> None:
        self.install.hear(order, phase, reason)
        self.local.hear(order, phase, reason)

    def begin_local(self, bundle: Path, **more: str) -> Request:
        """A client asks for an installation from a file."""
        beside = bundle.parent
        body = {"bundle": str(bundle), "trust": str(beside / "root.json"), "approval": "", **more}
        request = Request(body)
        self.local.begin(request)
        return request

    def copy(self) -> None:
        """Let the worker copy what was begun, and hand it on."""
        while self.posted.empty():
            assert self.device.pump(), "nothing was begun"
        self.install.copied(self.posted.get_nowait())

    def begin(self, medium: Path, **more: object) -> Request:
        """A client asks."""
        request = Request({"medium": str(medium), **more})
        try:
            self.install.begin(request)
        except AgentError as error:
            request.finish(**error.as_json())
        return request

    def loop(self, *, rounds: int = 400) -> None:
        """The agent's loop and worker, until nothing is left to do."""
        for _ in range(rounds):
            self.hear_posted()
            if not self.device.pump():
                if self.device.manager.state.stage.value == "idle" and self.posted.empty():
                    return
                self.device.second()
        raise AssertionError(f"still in {self.device.manager.state.stage}")

    def hear_posted(self) -> None:
        """The loop hears what the worker has copied."""
        while not self.posted.empty():
            event = self.posted.get_nowait()
            if isinstance(event, Imported):
                self.local.imported(event)
            else:
                assert isinstance(event, MediumCopied)
                self.install.copied(event)

    def apply(self, medium: Path, **more: object) -> dict[str, Any]:
        """Apply a medium to its end; the client's last line."""
        request = self.begin(medium, **more)
        self.loop()
        return last(request)
