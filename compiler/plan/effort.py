"""How long a plan is searched."""

from __future__ import annotations

from typing import Literal, get_args

Effort = Literal["fast", "normal", "thorough"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
