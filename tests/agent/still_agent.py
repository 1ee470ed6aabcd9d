"""A whole agent whose loop a test turns by hand, on a wire that keeps what was said.

Every part is the real one, joined as ``Parts`` joins them; only the network is not there, and
nothing runs but the update's worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.agent import Agent
from edge_agent.clock import SystemClock
from edge_agent.config import AgentConfig
from edge_agent.link import Inbound
from edge_contract.codec import encode_json
from edge_contract.signing import sign_message
from edge_contract.topics import EVERYONE, topic
from tests.agent.bundles import HARDWARE
from tests.trust.media_simulator import MediaPublisher
from tests.trust.tuf_simulator import LINE

FLEET, DEVICE = "shop", "cam-1"


class HandClock(SystemClock):
    """Stands still until a test moves it; the device does not know what day it is."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def wall_s(self) -> float:
        return 12.0

    def monotonic_s(self) -> float:
        return self.now_s


class Wire:
    """Where the MQTT link stands: what was said and heard for, and how often it came back."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bytes]] = []
        self.filters: list[str] = []
        self.came_back = 0
        self.pause_s = 0.0

    def publish(self, name: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        self.said.append((name, payload))
        return True

    def subscribe(self, filters: list[str]) -> None:
        self.filters += filters

    def unsubscribe(self, filters: list[str]) -> None:
        self.filters = [name for name in self.filters if name not in filters]

    def reconnect(self) -> None:
        self.came_back += 1

    def pace(self, pause_s: float) -> None:
        self.pause_s = pause_s

    def start(self) -> None:
        return

    def stop(self) -> None:
        return

    def take(self, tail: str) -> list[bytes]:
        """What was said on this device's topic ``tail`` since the last call."""
        found = [payload for name, payload in self.said if name.endswith(f"/{DEVICE}/{tail}")]
        self.said = [item for item in self.said if not item[0].endswith(f"/{DEVICE}/{tail}")]
        return found


class StillAgent:
    """Args:
    home: empty, or not there yet.
    sections: of the configuration, beside what every one must have.
    """

    def __init__(self, home: Path, **sections: Any) -> None:
        self.clock = HandClock()
        self.publisher = MediaPublisher()
        self.publisher.approve("1.0.0")
        home.mkdir(exist_ok=True)
        (home / "root.json").write_bytes(self.publisher.roots[0])
        (home / "frames").mkdir(exist_ok=True)
        config = {
            "device": {
                "fleet": FLEET,
                "id": DEVICE,
                "hardware": HARDWARE,
                "line": LINE,
                "state_dir": str(home / "state"),
            },
            "trust": {"root": str(home / "root.json")},
            "source": {"kind": "directory", "path": str(home / "frames")},
            "mqtt": {"host": "127.0.0.1"},
            "drift": {"enabled": False},
            **sections,
        }
        self.agent = Agent(msgspec.convert(config, AgentConfig), self.clock)
        self.parts = self.agent.parts
        self.wire = Wire()
        self.agent.fleet._link = self.wire  # type: ignore[assignment]
        assert self.parts.identity is not None
        self.identity = self.parts.identity

    def connect(self) -> None:
        """A broker accepts the device, and what is retained comes."""
        self.agent.fleet.connected("c1")
        self.hear(topic(FLEET, EVERYONE, "metadata", LINE), encode_json(self.metadata()))

    def metadata(self) -> Any:
        return self.publisher.metadata_set()

    def hear(self, name: str, payload: bytes, *, signed: bool = False) -> None:
        """One message of the fleet, signed by its director or not."""
        key = self.publisher.keys["director"][0]
        signature = sign_message(key, name, payload) if signed else ""
        self.agent._inbound(Inbound(name, payload, signature))

    def order(self, **changes: Any) -> None:
        """The director orders 1.0.0 but for ``changes``; its time of grace passes."""
        right = {"device_key": self.identity.fingerprint, "hardware": HARDWARE}
        self.hear(
            topic(FLEET, DEVICE, "desired", "model"), self.publisher.order(**{**right, **changes})
        )
        self.pass_s(0.0)
        self.pass_s(11.0)

    def pass_s(self, seconds: float) -> None:
        """Time passes, and the loop turns once; what else waits for the loop is left waiting."""
        self.clock.now_s += seconds
        self.agent._tick()

    def close(self) -> None:
        parts = self.parts
        for end in (parts.api.stop, parts.hooks.close, parts.worker.stop, parts.sources.stop):
            end()
        parts.spool.close()
        parts.state_dir.close()


@contextmanager
def still_agent(home: Path, **sections: Any) -> Iterator[StillAgent]:
    """Make one, and end it."""
    made = StillAgent(home, **sections)
    try:
        yield made
    finally:
        made.close()
