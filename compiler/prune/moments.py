"""Second moments of a dense layer's inputs and targets, streamed: memory is that of one sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import ModelProto

from compiler.calibrate.ranges import Samples
from compiler.errors import DatasetError, SourceError
from compiler.graph.feeds import given_to
from compiler.graph.floatgraph import first_line
from compiler.graph.layers import inner_tensors
from compiler.prune.dense import Array, Dense
from compiler.prune.targets import Target
from edge_runtime.onnx_session import session_options

ROWS_PER_SAMPLE = 256
"""Positions of a feature map that one sample contributes: neighbours say much the same."""

POOLED = 10.0
"""Weight of the mean over a sample's rows, in units of all of its rows together."""

CONSTANT = 1e-10
"""A column whose variance is below this share of its mean square is constant: at float32's
precision nothing is left of it, and rounding errors would be fitted."""

Run = Callable[[npt.NDArray[np.float32]], Sequence[npt.NDArray[np.float32]]]


@dataclass(frozen=True)
class Moments:
    """Sums over all rows of inputs ``x`` ``[D]`` and targets ``t`` ``[O]`` of one layer.

    xx: float64 ``[D, D]``, the layer's Hessian. xt: ``[D, O]``. tt: ``[O]``.
    x, t: sums ``[D]``, ``[O]``. n: rows. All but ``n`` have a grouped layer's groups in front.
    """

    xx: Array
    xt: Array
    tt: Array
    x: Array
    t: Array
    n: float

    def centred(self) -> Moments:
        """The same about the means: what is left for the weights once a bias is free."""
        x, t = self.x / self.n, self.t / self.n
        xx = self.xx - self.n * _outer(x, x)
        before, after = (np.diagonal(sums, axis1=-2, axis2=-1) for sums in (self.xx, xx))
        varies = after > CONSTANT * before
        xx *= varies[..., :, None] & varies[..., None, :]
        return Moments(
            xx=xx,
            xt=(self.xt - self.n * _outer(x, t)) * varies[..., None],
            tt=self.tt - self.n * t * t,
            x=self.x,
            t=self.t,
            n=self.n,
        )

    def eased(self, targets: Moments, *, bias_is_free: bool) -> Moments:
        """The same inputs with the targets of ``targets``, whose ``xx`` is not looked at."""
        xt, tt = targets.xt, targets.tt
        if bias_is_free:
            xt = xt - _outer(targets.x, targets.t) / targets.n
            tt = tt - targets.t * targets.t / targets.n
        varies = np.diagonal(self.xx, axis1=-2, axis2=-1) > 0
        return replace(self, xt=xt * varies[..., None], tt=tt, t=targets.t)


def collect_moments(
    current: ModelProto,
    reference: ModelProto,
    layers: Mapping[Dense, Target],
    samples: Samples,
    seed: int,
    solved: Mapping[str, tuple[Array, Array]] | None = None,
) -> dict[str, Moments]:
    """Moments of each of ``layers``: inputs from ``current``, targets from ``reference``.

    One sample runs at a time on one thread; positions are drawn from ``seed``.

    Args:
        solved: layer name -> matrix and bias, by which targets beyond a bound are eased; without
            it they are the float values. With it ``xx`` stays zero: inputs are what they were.

    Raises:
        SourceError: the runtime fails.
    """
    wanted = [name for layer, t in layers.items() for name in (layer.x, t.other or layer.x)]
    now = run_to(current, wanted)
    then = run_to(reference, [target.site for target in layers.values()])
    rng = np.random.default_rng(seed)
    sums: dict[str, Moments] = {}
    for sample in samples():
        given, sites = now(sample), then(sample)
        for index, (layer, target) in enumerate(layers.items()):
            picked = layer.pick(sites[index].shape, ROWS_PER_SAMPLE, rng)
            left = layer.inputs_at(given[2 * index], sites[index].shape, picked)
            right = layer.outputs_at(sites[index], picked)
            other = np.zeros_like(right)
            if target.other is not None:
                added = np.broadcast_to(given[2 * index + 1], sites[index].shape)
                other = layer.outputs_at(added, picked)
            if solved is not None:
                matrix, bias = solved[layer.name]
                right = target.ease(right, left @ matrix + bias[..., None, :] + other)
            right = right - other
            old = sums.get(layer.name) or _nothing(left, right)
            # In place: a Hessian of thousands of columns should not be there twice.
            weight = np.append(np.ones(len(picked)), POOLED * len(picked))
            left = np.concatenate([left, left.mean(-2, keepdims=True)], -2)
            right = np.concatenate([right, right.mean(-2, keepdims=True)], -2)
            heavy = left * weight[:, None]
            if solved is None:
                old.xx[...] += heavy.swapaxes(-1, -2) @ left
            old.xt[...] += heavy.swapaxes(-1, -2) @ right
            old.tt[...] += weight @ (right * right)
            old.x[...] += heavy.sum(-2)
            old.t[...] += weight @ right
            n = old.n + float(weight.sum())
            sums[layer.name] = Moments(old.xx, old.xt, old.tt, old.x, old.t, n)
    return sums


def run_to(model: ModelProto, names: Sequence[str]) -> Run:
    """A function that runs ``model`` on one sample and gives the tensors ``names``.

    Raises:
        SourceError: the runtime fails, here or later.
    """
    part = ModelProto()
    part.CopyFrom(model)
    inputs = {value.name for value in part.graph.input}
    wanted = [name for name in dict.fromkeys(names) if name not in inputs]
    # With no other outputs the runtime drops all nodes behind the last of them.
    del part.graph.output[:]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    given = given_to(part.graph)
    try:
        session = None
        if wanted:
            session = ort.InferenceSession(
                part.SerializeToString(),
                session_options("float32"),
                providers=["CPUExecutionProvider"],
            )
    # onnxruntime raises a family of types without a common base, RuntimeError among them.
    except Exception as error:
        raise SourceError(f"onnxruntime cannot run the model: {first_line(error)}") from error

    def run(sample: npt.NDArray[np.float32]) -> Sequence[npt.NDArray[np.float32]]:
        feeds = given.split(sample)
        try:
            arrays = session.run(wanted, feeds) if session else []
        # As above.
        except Exception as error:
            raise SourceError(f"the float model fails on a sample: {first_line(error)}") from error
        found: Mapping[str, npt.NDArray[np.float32]]
        found = {**feeds, **dict(zip(wanted, arrays, strict=True))}
        return [found[name] for name in names]

    return run


def run_shapes(model: ModelProto, samples: Samples) -> dict[str, tuple[int, ...]]:
    """Shapes of the input and of every tensor that a node makes, read off one run.

    Raises:
        DatasetError: there is no sample.
        SourceError: the runtime fails.
    """
    sample = next(samples(), None)
    if sample is None:
        raise DatasetError("pruning needs calibration samples, and there are none")
    names = [*given_to(model.graph).names, *inner_tensors(model.graph)]
    return {
        name: tuple(np.shape(array))
        for name, array in zip(names, run_to(model, names)(sample), strict=True)
    }


def _outer(x: Array, t: Array) -> Array:
    return x[..., :, None] * t[..., None, :]


def _nothing(left: Array, right: Array) -> Moments:
    *groups, _, columns = left.shape
    outputs = right.shape[-1]
    return Moments(
        xx=np.zeros((*groups, columns, columns)),
        xt=np.zeros((*groups, columns, outputs)),
        tt=np.zeros((*groups, outputs)),
        x=np.zeros((*groups, columns)),
        t=np.zeros((*groups, outputs)),
        n=0,
    )
