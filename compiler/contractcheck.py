"""Does the preprocessing contract fit the data and the model? Mix-ups are found and named.

Two kinds of evidence, weighed differently:

*Labels.* The float model answers labelled samples under the contract and under each alternative
that a known mistake would make right: channels in the other order, scale missing or applied twice,
mean and std left out, exchanged, or missing. An alternative is better when an exact one-sided sign
test over the pairs (McNemar's, exact) says so with ``p <= ALPHA`` after Bonferroni's correction for
the number of alternatives, its accuracy is higher by at least ``WARN_PP``, and it answers more than
always naming the commonest class would; from ``FAIL_PP`` on
the contract is refused. Every alternative answers the first ``SCREEN_ROWS`` samples, only those
ahead answer up to ``ROWS_MAX``; leaving some out can only lower the number of findings. So each
contract that is right is refused by chance at most once in ``1 / ALPHA`` builds, and only where the
alternative also gains ``FAIL_PP``.

*Ranges.* A contract with mean and std promises values around 0 with a spread around 1. Where the
data after preprocessing are far from that, or were so before it and no longer are, that is a
warning: sensors may well be like this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from scipy.stats import binom

from compiler.datasets.dataset import Dataset
from compiler.datasets.frames import Array
from compiler.errors import DatasetError
from compiler.graph.floatgraph import FloatGraph
from edge_contract.preprocess import PreprocessSpec
from edge_runtime.errors import InputRefusedError
from edge_runtime.onnx_session import session_options
from edge_runtime.preprocess import FloatArray, Preprocessor

ALPHA = 1e-3
FAIL_PP = 5.0
WARN_PP = 2.0
SCREEN_ROWS = 96
ROWS_MAX = 1_000

_TIE = 0.01
"""Of alternatives this near to each other in accuracy, the one listed first is named."""

_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_RANGE_ROWS = 64
_FAR_MEAN = 4.0
_SPREAD = (0.02, 20.0)

Answer = Callable[[FloatArray], FloatArray]
"""One model input float32 ``[1, ...]`` -> scores."""


@dataclass(frozen=True)
class Alternative:
    """A contract that a known mistake would make right.

    what: the mistake that was then made.
    fix: what to write instead.
    spec: the contract.
    reverse: the axis of a frame along which the channels are reversed first, or ``None``.
    """

    what: str
    fix: str
    spec: PreprocessSpec
    reverse: int | None = None


@dataclass(frozen=True)
class Doubt:
    """A finding: what seems wrong, with the figures, the line that mends it, and how sure it is."""

    message: str
    fix: str
    sure: bool


def check_contract(
    preprocessor: Preprocessor, parts: Sequence[Dataset], answer: Answer, *, trust: bool
) -> list[str]:
    """Refuse a contract that the labels speak against; return warnings.

    Args:
        preprocessor: of the contract.
        parts: the data, in the order in which their labels are to be used; the first with labels
            is taken. The first of all shows the ranges.
        answer: runs the float model.
        trust: the user insists on the contract: findings only warn.

    Raises:
        DatasetError: an alternative is better beyond doubt; names it, the figures and the fix.
    """
    labelled = next((part for part in parts if part.y is not None), None)
    doubts = [] if labelled is None else label_doubts(preprocessor, labelled, answer)
    doubts += range_doubts(preprocessor, parts[0])
    for doubt in doubts:
        if doubt.sure and not trust:
            raise DatasetError(
                f"the preprocessing does not fit: {doubt.message}",
                hint=f"{doubt.fix} (or --trust-preprocess, if it is right as it is)",
                docs="reference/edge-compile.md",
            )
    return [f"preprocessing: {doubt.message}; {doubt.fix}" for doubt in doubts]


def float_answer(graph: FloatGraph) -> Answer:
    """Runs the float model on one input."""
    session = ort.InferenceSession(
        graph.model.SerializeToString(),
        session_options("float32"),
        providers=["CPUExecutionProvider"],
    )

    name = graph.model.graph.output[0].name

    def answer(batch: FloatArray) -> FloatArray:
        (scores,) = session.run([name], graph.given.split(batch))
        return np.asarray(scores, np.float32)

    return answer


def alternatives(spec: PreprocessSpec, frames: Array) -> list[Alternative]:
    """The contracts that known mistakes would make right, for data such as ``frames``."""
    found: list[Alternative] = []
    low, high = float(frames.min()), float(frames.max())
    axis = _channel_axis(spec, frames.shape[1:])
    if axis is not None:
        found.append(_reversed_channels(spec, axis))

    def add(what: str, *lines: str, **changed: object) -> None:
        other = msgspec.structs.replace(spec, **changed)
        if other != spec:
            found.append(Alternative(what, "write " + ", ".join(lines), other))

    pixels = low >= 0 and 2 < high <= 255
    small = spec.scale <= 0.1
    if spec.mean:
        add(
            "mean and std are applied to data that do not need them",
            "no mean, no std",
            mean=[],
            std=[],
        )
        add(
            "the data are normalised already, and normalised again",
            "scale = 1.0, no mean, no std",
            scale=1.0,
            mean=[],
            std=[],
        )
        if all(value > 0 for value in spec.mean):
            add(
                "mean and std are exchanged",
                f"mean = {_list(spec.std)}",
                f"std = {_list(spec.mean)}",
                mean=spec.std,
                std=spec.mean,
            )
    if small:
        add(
            "the data or the model are not in 0..1: scale is applied once too often",
            "scale = 1.0",
            scale=1.0,
        )
    elif low >= 0 and high <= 1 and spec.kind == "tensor":
        add("the model expects 0..255", f"scale = {255 * spec.scale:g}", scale=255 * spec.scale)
    elif pixels:
        add(
            "scale is missing: pixels of 0..255 where 0..1 is expected",
            f"scale = {1 / 255!r}",
            scale=1 / 255,
        )
    if pixels:
        half = [0.5] * (spec.channels if spec.kind == "image" else 1)
        add(
            "the model expects -1..1",
            f"scale = {1 / 255!r}",
            f"mean = {_list(half)}",
            f"std = {_list(half)}",
            scale=1 / 255,
            mean=half,
            std=half,
        )
        if axis is not None and (axis == 2 or spec.kind == "image"):
            order = -1 if spec.colour == "BGR" and spec.kind == "image" else 1
            mean, std = (values[::order] for values in _IMAGENET.values())
            add(
                "the model expects ImageNet's mean and std",
                f"scale = {1 / 255!r}",
                f"mean = {_list(mean)}",
                f"std = {_list(std)}",
                scale=1 / 255,
                mean=mean,
                std=std,
            )
    return found


def label_doubts(preprocessor: Preprocessor, data: Dataset, answer: Answer) -> list[Doubt]:
    """What labelled samples say: at most one doubt, of the best alternative."""
    assert data.y is not None, "asked for labelled data only"
    rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), ROWS_MAX)).round().astype(int))
    # Data come sorted by class at times: the first rows must not be of one class alone.
    rows = np.random.default_rng(0).permutation(rows)
    labels = data.y[rows]
    shown = np.stack([data.x[row] for row in rows[:_RANGE_ROWS]])
    others = alternatives(preprocessor.spec, shown)

    def right(
        spec: PreprocessSpec, reverse: int | None, part: slice
    ) -> npt.NDArray[np.bool_] | None:
        executor = Preprocessor(spec, preprocessor.input_shape)
        found = []
        for row, label in zip(rows[part], labels[part], strict=True):
            frame = data.x[row] if reverse is None else np.flip(data.x[row], reverse)
            try:
                scores = answer(executor(frame))
            except InputRefusedError:
                return None
            found.append(bool(np.isfinite(scores).all()) and int(scores.argmax()) == int(label))
        return np.array(found, np.bool_)

    screen, rest = slice(0, SCREEN_ROWS), slice(SCREEN_ROWS, None)
    given = right(preprocessor.spec, None, screen)
    if given is None:
        return []
    ahead: list[tuple[Alternative, npt.NDArray[np.bool_]]] = []
    for other in others:
        seen = right(other.spec, other.reverse, screen)
        if seen is not None and seen.sum() > given.sum():
            ahead.append((other, seen))
    if not ahead:
        return _no_better_than_chance(given, labels[screen], data.role)
    more = right(preprocessor.spec, None, rest)
    if more is None:
        return []
    best: tuple[float, Doubt] | None = None
    for other, seen in ahead:
        also = right(other.spec, other.reverse, rest)
        if also is None:
            continue
        theirs, ours = np.concatenate([seen, also]), np.concatenate([given, more])
        if not _beyond_chance(theirs, labels):
            continue
        doubt = _judge(other, theirs, ours, len(others), data.role)
        gain = float(theirs.mean() - ours.mean())
        if doubt is not None and (best is None or gain > best[0] + _TIE):
            best = gain, doubt
    if best is None:
        return _no_better_than_chance(np.concatenate([given, more]), labels, data.role)
    return [best[1]]


def sign_test(gained: int, lost: int) -> float:
    """The chance of at least ``gained`` heads in ``gained + lost`` throws of a fair coin."""
    return float(binom.sf(gained - 1, gained + lost, 0.5))


def range_doubts(preprocessor: Preprocessor, data: Dataset) -> list[Doubt]:
    """What the values themselves say against a contract with mean and std; never sure."""
    spec = preprocessor.spec
    if not spec.mean:
        return []
    rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), _RANGE_ROWS)).round().astype(int))
    after = np.stack([preprocessor(data.x[row])[0] for row in rows])
    before = np.stack([data.x[row] for row in rows]).astype(np.float64) * spec.scale
    mean, std = float(after.mean()), float(after.std())
    raw_mean, raw_std = float(before.mean()), float(before.std())
    seen = (
        f"after preprocessing the calibration data have mean {mean:.3g} and spread {std:.3g}, where"
        " a contract with mean and std gives about 0 and 1"
    )
    if std > _SPREAD[1] and spec.scale == 1 and max(spec.mean) <= 2:
        return [Doubt(f"{seen}: scale seems to be missing", f"write scale = {1 / 255!r}", False)]
    if std < _SPREAD[0]:
        why = "mean and std are of 0..255" if max(map(abs, spec.mean)) > 2 else "scaled twice"
        return [Doubt(f"{seen}: {why}", "write scale = 1.0", False)]
    standard = abs(raw_mean) < 0.5 and 0.5 < raw_std < 2 and before.min() < -0.5
    if standard and (abs(mean) > 1.5 or std > 2.5):
        return [
            Doubt(
                f"{seen}; before it {raw_mean:.3g} and {raw_std:.3g}: normalised twice",
                "write no mean, no std",
                False,
            )
        ]
    if abs(mean) > _FAR_MEAN * max(std, 1) or std > _SPREAD[1]:
        return [Doubt(seen, "compare scale, mean and std with those of the training", False)]
    return []


def _judge(
    other: Alternative,
    theirs: npt.NDArray[np.bool_],
    ours: npt.NDArray[np.bool_],
    tests: int,
    role: str,
) -> Doubt | None:
    gained, lost = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    chance = min(1.0, tests * sign_test(gained, lost))
    gain_pp = 100 * float(theirs.mean() - ours.mean())
    if chance > ALPHA or gain_pp < WARN_PP:
        return None
    return Doubt(
        f"{other.what}. The float model answers {ours.mean():.1%} of {len(ours)} labelled {role}"
        f" samples rightly as the contract stands, and {theirs.mean():.1%} otherwise ({gained}"
        f" gained, {lost} lost; p = {chance:.1g})",
        other.fix,
        gain_pp >= FAIL_PP,
    )


def _no_better_than_chance(
    given: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64], role: str
) -> list[Doubt]:
    """A model that answers as many as the commonest class has was asked something else."""
    if len(given) < SCREEN_ROWS // 2 or _beyond_chance(given, labels, alpha=0.05):
        return []
    share = _commonest_share(labels)
    return [
        Doubt(
            f"the float model answers {given.mean():.1%} of {len(given)} labelled {role} samples"
            f" rightly; naming the commonest class always would get {share:.1%},"
            " too close to tell apart",
            "compare the labels' order and --preprocess with the training",
            False,
        )
    ]


def _beyond_chance(
    right: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64], alpha: float = ALPHA
) -> bool:
    """Whether so many right answers are more than always naming the commonest class gives."""
    n, hits, share = len(right), int(right.sum()), _commonest_share(labels)
    if share == 1:
        return True
    return bool(binom.sf(hits - 1, n, share) <= alpha)


def _commonest_share(labels: npt.NDArray[np.int64]) -> float:
    _, counts = np.unique(labels, return_counts=True)
    return int(counts.max()) / len(labels)


def _reversed_channels(spec: PreprocessSpec, axis: int) -> Alternative:
    turned = "x = x[..., ::-1]" if axis == 2 else "x = x[:, ::-1]"
    what = "the channels come in the other order than the model wants (RGB, BGR)"
    if spec.kind != "image":
        return Alternative(what, f"save the samples anew with {turned}", spec, axis)
    other = "BGR" if spec.colour == "RGB" else "RGB"
    fix = f'write colour = "{other}" where the samples are image files; where they are arrays,'
    fix += f" save them anew with {turned}, and write the order that the model was trained with"
    return Alternative(what, fix, spec, axis)


def _channel_axis(spec: PreprocessSpec, frame: tuple[int, ...]) -> int | None:
    if len(frame) != 3:
        return None
    if spec.kind == "image":
        return None if spec.colour == "GRAY" else (0 if spec.layout == "NCHW" else 2)
    return next((axis for axis in (2, 0) if frame[axis] == 3), None)


def _list(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
