"""What a name that no profile has was meant to be: ``pi4``, ``x86_64``, ``orin``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

_WORDS = (
    (r"^(raspberry-?pi|raspi|rpi|pi)-?", "raspberry-pi-"),
    (r"^(amd64|x64|x86-?64|x86)$", "generic-x86-64"),
    (r"^(aarch64|arm64|armv8)$", "generic-arm64"),
)
"""What people write, and how the profiles call it."""

_NEAR = 0.7
"""How alike two names are, 0..1, before one is taken for a misspelling of the other."""


def suggest(name: str, known: Sequence[str]) -> list[str]:
    """Those of ``known`` that ``name`` may have meant, the likeliest first; none where it is far
    from all."""
    text = name.strip().lower().replace("_", "-").replace(" ", "-")
    for pattern, word in _WORDS:
        text = re.sub(pattern, word, text)
    bare = text.replace("-", "")
    if len(bare) < 2:
        return []
    holding = [one for one in known if bare in one.replace("-", "")]
    return holding or difflib.get_close_matches(text, known, n=3, cutoff=_NEAR)
