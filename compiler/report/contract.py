"""The preprocessing contract as the report shows it, with what was checked against the data."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from compiler.inputs import Inputs
from compiler.report.section import Section
from compiler.singlescore import score_sentence


def contract_section(inputs: Inputs, x: npt.NDArray[np.float32]) -> Section:
    """What a device will do to a raw frame, and what the model gets.

    Args:
        inputs: of the build; the checks named here are those that ``load_inputs`` made.
        x: model inputs of calibration samples, float32 ``[n, ...]``.
    """
    spec = inputs.manifest.preprocess
    raw = np.asarray(inputs.data.whole.x[0])
    frame = f"{raw.dtype} {' x '.join(map(str, raw.shape))}"
    entry = inputs.manifest.inputs[0]
    shape = " x ".join("n" if size is None else str(size) for size in entry.shape)
    rows = [("raw frame", frame)]
    if spec.kind == "image":
        rows += [
            ("layout, colour", f"{spec.layout}, {spec.colour}"),
            ("resize", f"{spec.resize} to {spec.height_px} x {spec.width_px}"),
        ]
    rows += [
        ("scale", f"x {spec.scale:.6g}"),
        ("mean", ", ".join(f"{value:.6g}" for value in spec.mean) or "none"),
        ("std", ", ".join(f"{value:.6g}" for value in spec.std) or "none"),
        ("model input", f"{entry.name}, {entry.dtype} {shape}"),
    ]
    if said := score_sentence(inputs.manifest):
        rows.append(("the one score", said))
    data = inputs.data
    frames = f"all {len(data.whole)} calibration and {len(data.test)} test frames"
    checked = [
        f"{frames} are {raw.dtype} and finite, and went through this contract in the device's code",
        "the calibration frames are not constant",
        f"test frames that are calibration or selection frames, too: {_shared(data.warnings)}",
    ]
    axis = 1 if spec.kind == "image" and spec.model_layout == "NCHW" else x.ndim - 1
    channels = _channels(x, axis)
    return Section(
        key="preprocess",
        title="Preprocessing contract",
        note="It travels in the bundle; compiler and agent run it with the same code.",
        data={
            "contract": msgspec.to_builtins(spec),
            "raw_frame": frame,
            "checked": checked,
            "model_input": channels,
        },
        columns=("model input", "least", "mean", "std", "greatest"),
        rows=tuple(
            (
                f"channel {place}" if len(channels) > 1 else "all values",
                *(f"{one[key]:.4g}" for key in ("low", "mean", "std", "high")),
            )
            for place, one in enumerate(channels)
        ),
        template="contract.html",
        view={"steps": rows, "checked": checked, "count": len(x)},
    )


def _channels(x: npt.NDArray[np.float32], axis: int) -> list[dict[str, float]]:
    """Extremes, mean and deviation of the model's input, by channel where there are up to four."""
    whole = x.ndim < 4 or x.shape[axis] > 4
    parts = [x] if whole else np.split(x, x.shape[axis], axis)
    return [
        {
            "low": _figure(part.min()),
            "mean": _figure(part.mean(dtype=np.float64)),
            "std": _figure(part.std(dtype=np.float64)),
            "high": _figure(part.max()),
        }
        for part in parts
    ]


def _figure(value: np.floating[npt.NBitBase]) -> float:
    return float(f"{float(value):.6g}")


def _shared(warnings: tuple[str, ...]) -> str:
    said = [warning for warning in warnings if warning.endswith("samples, too")]
    return "; ".join(said) or "none"
