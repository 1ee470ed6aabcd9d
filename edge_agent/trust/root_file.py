"""The file that a device trusts from the start, as its owner put it there."""

from __future__ import annotations

import json


def is_root(data: bytes) -> bool:
    """Whether a file looks like TUF root metadata at all; its signatures are checked elsewhere."""
    try:
        return bool(json.loads(data)["signed"]["_type"] == "root")
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
