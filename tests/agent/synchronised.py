"""``edge-agent`` with a clock that was set from the network; the test machine's may not be."""

from __future__ import annotations

import sys
from pathlib import Path

import edge_agent.orders
from edge_agent.cli import main

if __name__ == "__main__":
    edge_agent.orders._SYNCHRONISED = Path("/")
    sys.exit(main())
