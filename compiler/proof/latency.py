"""How long one frame takes, float beside int8, measured on this machine.

The two models answer the same frame one after the other, and who goes first alternates: what else
the machine does hits both, so their ratio means more than either figure. It says nothing about a
device with another processor (FACTS: S8S8 is right for ARM and slower than float on x86-64).
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compiler.inputs import Inputs
from edge_contract.model import Variant
from edge_runtime.session import ModelSession

PAIRS_MAX = 200
PAIRS_MIN = 15
_BUDGET_MS = 2_000.0
"""What measuring may take; slow models get fewer pairs, but at least ``PAIRS_MIN``."""

_WARM_UP_RUNS = 5

_ARM = ("aarch64", "arm64", "armv7l", "armv8l")


@dataclass(frozen=True)
class Latency:
    """Milliseconds in the runtime for one frame, one thread, without preprocessing.

    float_ms, int8_ms: one entry a pair, in the order measured.
    preprocess_ms: median of what the preprocessing contract takes on top, for either model.
    machine: the architecture that it was measured on.
    """

    float_ms: tuple[float, ...]
    int8_ms: tuple[float, ...]
    preprocess_ms: float
    machine: str

    @property
    def pairs(self) -> int:
        """How many frames both models answered."""
        return len(self.float_ms)

    def quantiles(self, of: str) -> tuple[float, float]:
        """(p50, p95) in ms of ``"float"`` or ``"int8"``."""
        values = self.float_ms if of == "float" else self.int8_ms
        return float(np.quantile(values, 0.5)), float(np.quantile(values, 0.95))

    @property
    def ratio(self) -> float:
        """Median over the pairs of int8 time over float time; below 1 int8 is faster."""
        return float(np.median(self._ratios()))

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """95 % interval of that median, from order statistics (the sign test turned round).

        The k-th least and k-th greatest of n ratios, ``k = n/2 - 0.98 sqrt(n)`` (normal
        approximation of the binomial, W. J. Conover, "Practical Nonparametric Statistics", 3.2).
        """
        ordered = np.sort(self._ratios())
        k = max(0, int(np.floor(self.pairs / 2 - 0.98 * np.sqrt(self.pairs))))
        return float(ordered[k]), float(ordered[-1 - k])

    @property
    def slower(self) -> bool:
        """Whether int8 is slower than float for sure, on this machine."""
        return self.ratio_bounds[0] > 1

    def decides_for(self, arch: str) -> bool:
        """Whether a device of ``arch`` has the kind of processor that was measured."""
        return (arch in _ARM) == (self.machine in _ARM)

    def _ratios(self) -> npt.NDArray[np.float64]:
        pairs = zip(self.int8_ms, self.float_ms, strict=True)
        return np.array([int8 / floating for int8, floating in pairs])


def measure_latency(
    inputs: Inputs,
    variant: Variant,
    floating: ModelSession,
    int8: bytes,
    frames: Sequence[npt.NDArray[np.generic]],
) -> Latency:
    """Time both models in turns on ``frames``, raw.

    Raises:
        ModelRuntimeError: the runtime fails.
    """
    quantised = ModelSession(int8, inputs.manifest, variant)
    for session in (floating, quantised):
        session.warm_up(frames[0], runs=_WARM_UP_RUNS)
    times: dict[str, list[float]] = {"float": [], "int8": []}
    preprocess: list[float] = []
    spent = 0.0
    while len(preprocess) < PAIRS_MIN or (len(preprocess) < PAIRS_MAX and spent < _BUDGET_MS):
        turn = len(preprocess)
        frame = frames[turn % len(frames)]
        order = (("float", floating), ("int8", quantised))
        for name, session in order if turn % 2 == 0 else order[::-1]:
            answer = session.predict(frame)
            times[name].append(answer.infer_ms)
            spent += answer.preprocess_ms + answer.infer_ms
        preprocess.append(answer.preprocess_ms)
    return Latency(
        tuple(times["float"]),
        tuple(times["int8"]),
        float(np.median(preprocess)),
        platform.machine(),
    )


def why_slower(latency: Latency, kind: str, left_float: int, layers: int, macs: int) -> list[str]:
    """What explains an int8 model that is slower than its float source, the likeliest first.

    Args:
        kind: runtime and scheme of the variant.
        left_float, layers: layers that run in float, and all of them.
        macs: multiply-accumulates of one frame.
    """
    found = []
    if kind.startswith("onnxruntime s8s8") and latency.machine not in _ARM:
        found.append(
            "S8S8 is the scheme of ARM; on x86-64 onnxruntime has no fast kernels for it, so this"
            " is expected here and says nothing about the device"
        )
    if left_float:
        found.append(
            f"{left_float} of {layers} layers run in float, and every change between float and"
            " int8 costs a pass over the tensor"
        )
    if macs < 1_000_000:
        found.append(
            f"with {macs:,} multiply-accumulates a frame, what the runtime spends on each operator"
            " outweighs the arithmetic"
        )
    usual = (
        "every layer runs in int8; channel counts that are no multiple of the profile's step, and"
        " processors without int8 dot products (VNNI, dotprod), are the usual causes"
    )
    return found or [usual]
