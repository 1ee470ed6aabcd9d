"""Writes to a spool until it is killed, telling on stdout what was acknowledged into it.

Run by test_spool_crash.py: ``spool_writer.py DIRECTORY SEED CAP_BYTES``. Every line of stdout is
JSON and is written only after the spool had said so: ["accepted", class, first, last], ["sent",
class, first, last] or ["acking", class, first, last] (before the call, which a kill may interrupt).
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

from edge_agent.telemetry.spool import Spool


def say(*what: object) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def main(directory: Path, seed: int, cap_bytes: int) -> None:
    rng = random.Random(seed)
    spool = Spool.open(
        directory / "spool.db",
        cap_bytes=cap_bytes,
        quotas={"telemetry": 0.4, "drift": 0.2, "event": 0.2, "status": 0.2},
        boot_id="boot-1",
        merge={"telemetry": lambda earlier, later: earlier},
        clock=lambda: 0.0,
        ledger_path=directory / "ledger.jsonl",
    )
    say("ready")
    while True:
        cls = rng.choice(("telemetry", "drift", "event", "status"))
        for _ in range(rng.randrange(1, 40)):
            spool.append(cls, lambda seq, cls=cls: f"{cls} {seq} ".encode() + rng.randbytes(300))
        for accepted in spool.flush():
            say("accepted", accepted.cls, accepted.seq_first, accepted.seq_last)
        if rng.random() < 0.4:
            for record in spool.next_batch(cls, max_records=rng.randrange(1, 30)):
                say("sent", cls, record.seq_first, record.seq_last)
                if rng.random() < 0.1:
                    say("acking", cls, record.seq_first, record.seq_last)
                    spool.ack("boot-1", cls, [[record.seq_first, record.seq_last]])
        if rng.random() < 0.05:
            spool.reset_in_flight()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
