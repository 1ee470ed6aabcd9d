"""Golden vectors: raw frames and the outputs that this very variant gave for them.

The device runs them before it trusts a staged model: they catch swapped weights, another
runtime's arithmetic and a preprocessing that came apart.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from edge_contract.codec import decode_msgpack, encode_msgpack
from edge_contract.errors import ContractError

GOLDEN_LIMIT_BYTES = 16 << 20

_ITEM_BYTES = {"uint8": 1, "int8": 1, "float32": 4, "int64": 8}


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """A dense array: little-endian, C order."""

    dtype: Literal["uint8", "int8", "float32", "int64"]
    shape: list[int]
    data: bytes

    def __post_init__(self) -> None:
        if any(n < 0 for n in self.shape) or len(self.shape) > 8:
            raise ContractError(f"tensor: refused shape {self.shape}")
        expected = math.prod(self.shape) * _ITEM_BYTES[self.dtype]
        if expected != len(self.data):
            raise ContractError(
                f"tensor: shape {self.shape} of {self.dtype} needs {expected} bytes,"
                f" got {len(self.data)}"
            )


class GoldenVectors(msgspec.Struct, frozen=True, kw_only=True):
    """``n`` raw frames and the expected scores.

    frames: ``[n, ...]`` as the source gives them (before preprocessing).
    scores: float32 ``[n, values]``, dequantised: all outputs of a frame, one after another.
    tolerance_abs: the largest difference of one value that still agrees.
    tolerances_abs: the same output by output, where there are several.
    """

    schema: Literal[1] = 1
    frames: Tensor
    scores: Tensor
    tolerance_abs: float
    tolerances_abs: list[float] | msgspec.UnsetType = msgspec.UNSET


def encode_golden(golden: GoldenVectors) -> bytes:
    """Canonical MessagePack bytes."""
    return encode_msgpack(golden)


def decode_golden(data: bytes, *, where: str) -> GoldenVectors:
    """Parse and check golden vectors.

    Raises:
        ContractError: malformed, none inside, counts differ, or a useless tolerance.
    """
    golden = decode_msgpack(data, GoldenVectors, what=where, limit_bytes=GOLDEN_LIMIT_BYTES)
    frames, scores = golden.frames.shape, golden.scores.shape
    if not frames or len(scores) != 2 or frames[0] != scores[0] or frames[0] == 0:
        raise ContractError(
            f"{where}: expected frames [n, ...] and scores [n, values] with n above 0, got"
            f" {frames} and {scores}"
        )
    each = [] if golden.tolerances_abs is msgspec.UNSET else golden.tolerances_abs
    for tolerance in (golden.tolerance_abs, *each):
        if not 0 <= tolerance < math.inf:
            raise ContractError(f"{where}: tolerance {tolerance} is refused")
    return golden
