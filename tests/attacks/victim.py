"""A device under attack: the real agent with a running model, and a publisher that may do anything.

Messages go in where the network thread puts them, the agent's own loop body handles them, and what
it logs is what is asserted. The engine runs on its real threads all the while.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.agent import Agent
from edge_agent.clock import SystemClock
from edge_agent.config import AgentConfig
from edge_agent.infer.model import LoadedModel
from edge_agent.link import Inbound
from edge_contract.codec import encode_json
from edge_contract.errors import WherryError
from edge_contract.metadata import MetadataSet
from edge_contract.topics import EVERYONE, topic
from tests.agent.bundles import HARDWARE
from tests.trust.media_simulator import MediaPublisher
from tests.trust.tuf_simulator import LINE, NOW_S

FLEET, DEVICE = "shop", "cam-1"
_LONG_HEX = re.compile(r"(sha256:)?[0-9a-f]{12,64}")
_PATH = re.compile(r"(/[\w.+-]+){2,}")


class VictimClock(SystemClock):
    """Runs on, and can be set: ``wall`` is what the device believes, ``later_s`` shifts both."""

    def __init__(self) -> None:
        self.wall = NOW_S - 10
        self.later_s = 0.0

    def wall_s(self) -> float:
        return self.wall

    def monotonic_s(self) -> float:
        return time.monotonic() + self.later_s


class Victim:
    """One device that has accepted metadata with 1.0.0 and one good order."""

    def __init__(
        self,
        home: Path,
        frames: Path,
        model: LoadedModel,
        record: Callable[[str, str], None],
    ) -> None:
        self.publisher = MediaPublisher(root_keys=2, root_threshold=2)
        self.publisher.approve("1.0.0")
        (home / "root.json").write_bytes(self.publisher.roots[0])
        config = {
            "device": {
                "fleet": FLEET,
                "id": DEVICE,
                "hardware": HARDWARE,
                "line": LINE,
                "state_dir": str(home / "state"),
            },
            "trust": {"root": str(home / "root.json")},
            "source": {"kind": "directory", "path": str(frames), "rate_hz": 100.0},
            "mqtt": {"host": "127.0.0.1", "port": 1, "tls": True},  # never started
            "drift": {"enabled": False},
            "link": {"metered": True},
        }
        self.home = home
        self.clock = VictimClock()
        self.agent = Agent(msgspec.convert(config, AgentConfig), self.clock)
        self._record = record
        self._log = _Lines()
        logger = logging.getLogger("edge_agent")
        logger.addHandler(self._log)
        logger.setLevel(logging.INFO)
        self._model = model
        assert self.agent.parts.identity is not None
        self.device_key = self.agent.parts.identity.fingerprint
        self.agent.engine.swap(model)
        self.agent.engine.start()

    # What the wire brings. ----------------------------------------------------------------------

    def send(self, name: str, payload: bytes, signature: str = "") -> None:
        """Deliver one message."""
        self.agent._events.put(Inbound(name, payload, signature))
        # Answers of the update's own steps may stand before it in the queue.
        while not self.agent._events.empty():
            self.agent._take(0.0)

    def metadata(self, metadata: MetadataSet | bytes | None = None) -> None:
        """Deliver metadata: the publisher's present set, or what an attacker made of it."""
        value = self.publisher.metadata_set() if metadata is None else metadata
        data = value if isinstance(value, bytes) else encode_json(value)
        self.send(topic(FLEET, EVERYONE, "metadata", LINE), data)

    def order(self, envelope: bytes) -> None:
        """Deliver an order and let its time of grace pass."""
        self.send(topic(FLEET, DEVICE, "desired", "model"), envelope)
        self.agent._obey(self.clock.monotonic_s())
        self.clock.later_s += 11
        self.agent._obey(self.clock.monotonic_s())

    def envelope(self, **changes: object) -> bytes:
        """An order of the director that is right for this device but for ``changes``."""
        right = {"device_key": self.device_key, "hardware": HARDWARE, "seq": 2}
        return self.publisher.order(**{**right, **changes})

    def settle(self) -> None:
        """Accept what is good: the metadata with 1.0.0 and order number 1."""
        self.metadata()
        self.order(self.envelope(seq=1))
        assert self.agent.desk.desired_seq == 1, self._log.lines
        self.note()

    def note(self) -> None:
        """Only log lines from here on count."""
        self._log.lines.clear()

    # What must hold. ----------------------------------------------------------------------------

    def tries(self, attack: Callable[[], Any]) -> None:
        """An attack on a file that the owner hands in: the refusal is the answer to the owner."""
        try:
            attack()
        except (WherryError, OSError) as error:
            logging.getLogger("edge_agent").warning("refused: %s", error)

    def refused(self, by: str, saying: str, *, seq: int = 1) -> None:
        """The attack was refused, the log says so, and the model that ran is inferring.

        Args:
            by: what refused it, for the table.
            saying: a pattern that the log line matches.
            seq: the newest order that may count.
        """
        lines = self._log.lines
        found = next((line for line in lines if re.search(saying, line)), None)
        assert found is not None, f"no log line matches {saying!r}: {lines}"
        assert self.agent.desk.desired_seq == seq
        self.infers()
        line = _PATH.sub("…", _LONG_HEX.sub("…", found))
        self._record(by, line[:230].replace("|", "/"))

    def infers(self) -> None:
        """Frames are answered, now, by the model that answered them before."""
        before = self.agent.engine.answered_count
        until = time.monotonic() + 5
        while self.agent.engine.answered_count < before + 3:
            assert time.monotonic() < until, "inference stopped"
            time.sleep(0.01)
        assert self.agent.engine.model is self._model
        answers = list(self.agent.engine.answers)[-3:]
        assert all(answer.prediction is not None for answer in answers)

    def close(self) -> None:
        logging.getLogger("edge_agent").removeHandler(self._log)
        self.agent.engine.stop()
        self.agent.parts.worker.stop()
        self.agent.parts.spool.close()
        self.agent.parts.state_dir.close()


class _Lines(logging.Handler):
    """What the agent logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
