"""Everything a build starts from, read and checked against each other before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import numpy as np
import onnx
import onnxruntime as ort

from compiler.bundle.formats import planned_variant, runtime_versions
from compiler.bundle.previous import PreviousBundle, load_previous
from compiler.contractcheck import check_contract, float_answer
from compiler.datasets.checks import (
    check_apart,
    check_calibration,
    check_same_classes,
    check_shape,
)
from compiler.datasets.dataset import Dataset, stream
from compiler.datasets.load import load_dataset
from compiler.errors import CompileError, DatasetError
from compiler.graph.check import LAYER_OPS
from compiler.graph.feeds import input_specs
from compiler.graph.floatgraph import FloatGraph, normalise, output_specs
from compiler.graph.layers import Layer, list_layers
from compiler.graph.source import Source, load_source
from compiler.graph.uncounted import Uncounted, list_uncounted
from compiler.metrics.measure import Limits, metric_of
from compiler.options import BuildOptions, check_names, read_labels, read_names, read_preprocess
from compiler.progress import Progress, silent
from compiler.prune.ask import check_targets, read_ask
from compiler.singlescore import (
    ANSWERS_MAX,
    as_class_ids,
    ends_in_sigmoid,
    is_single,
    reading_doubts,
    single_score_of,
)
from compiler.split import SEED, SELECTION_SHARE, selection_split
from compiler.tasks import check_task_labels, settle_task
from device_configs.loader import load_profile
from edge_contract import __version__
from edge_contract.errors import ExitCode
from edge_contract.model import Lineage, ModelManifest, SingleScore, Task, TensorSpec, Variant
from edge_contract.preprocess import PreprocessSpec
from edge_contract.profile import DeviceProfile
from edge_runtime.classes import ClassScores
from edge_runtime.errors import InputRefusedError
from edge_runtime.preprocess import FloatArray, Preprocessor
from edge_runtime.tensors import Tensors

_CONSTANT_SHOWN = 8
"""Names of constant columns in the warnings."""


@dataclass(frozen=True)
class Data:
    """The checked data of one build.

    fit, selection: what candidates are calibrated with and chosen by.
    whole: the calibration data, with the selection where that was split off them: what golden
        vectors and the drift reference are taken from.
    """

    fit: Dataset
    selection: Dataset
    whole: Dataset
    test: Dataset
    was_split: bool
    warnings: tuple[str, ...]

    def relabelled(self, change: Callable[[Dataset], Dataset]) -> Data:
        """The same data with other labels."""
        return replace(
            self,
            fit=change(self.fit),
            selection=change(self.selection),
            whole=change(self.whole),
            test=change(self.test),
        )


@dataclass(frozen=True)
class Inputs:
    """A build's inputs.

    uncounted: what multiplies and is none of ``layers``.
    profiles: by target, in the order of the command line.
    manifest: ``model.json`` as it will stand in the bundle.
    """

    source: Source
    graph: FloatGraph
    layers: list[Layer]
    uncounted: tuple[Uncounted, ...]
    preprocessor: Preprocessor
    data: Data
    profiles: dict[str, DeviceProfile]
    manifest: ModelManifest
    previous: PreviousBundle


def load_inputs(options: BuildOptions, progress: Progress = silent) -> Inputs:
    """Read and check everything that ``options`` names.

    Raises:
        CompileError: something does not fit; says what and what to do.
        ContractError: an unknown or malformed target.
    """
    check_names(options)
    profiles = _load_profiles(options)
    check_targets(read_ask(options.prune, options.sparsity), profiles.values())
    variants = [planned_variant(profile, options.format) for profile in profiles.values()]
    previous = load_previous(options.previous, options.name, variants)
    source = load_source(options.model, options.shapes)
    graph = normalise(source)
    spec = read_preprocess(options.preprocess)
    names = graph.given.names
    if len(names) > 1 and spec != PreprocessSpec():
        raise CompileError(
            f"--preprocess speaks of one input, the model has {len(names)}: {', '.join(names)}",
            hint="scale and lay out the samples as the model takes them, or do it in the model",
        )
    preprocessor = Preprocessor(spec, graph.row_shape)
    data = _load_data(options, preprocessor, names, progress)
    try:
        example = preprocessor(data.whole.x[0])
    except InputRefusedError as error:
        raise DatasetError(f"calibration data, row 0: {error.message}") from error
    outputs = output_specs(graph, example)
    sigmoid = ends_in_sigmoid(graph.model.graph)
    task = settle_task(options.task, outputs, data.test.y, sigmoid=sigmoid)
    single: SingleScore | msgspec.UnsetType = msgspec.UNSET
    if task == "classification" and is_single(outputs):
        data = data.relabelled(as_class_ids)
        rows = np.unique(np.linspace(0, len(data.whole) - 1, ANSWERS_MAX).astype(np.int64))
        some = stream(data.whole.x[rows], preprocessor, data.whole.role)
        single = single_score_of(graph.model.graph, map(float_answer(graph), some()))
    check_task_labels(task, outputs, (data.whole, data.selection, data.test))
    manifest = _manifest(
        options,
        source,
        graph,
        spec,
        data,
        variants,
        task,
        outputs=outputs,
        single_score=single,
        previous=previous.digest,
    )
    if task == "classification":
        classes, answer = ClassScores(manifest), float_answer(graph)
        parts = [data.whole, data.selection, data.test]
        misread = reading_doubts(manifest, parts, preprocessor, answer)
        doubts = check_contract(
            preprocessor,
            parts,
            lambda batch: classes.of(answer(batch).reshape(1, -1)),
            trust=options.trust_preprocess,
        )
        data = replace(data, warnings=(*data.warnings, *misread, *doubts))
    return Inputs(
        source=source,
        graph=graph,
        layers=_layers(graph, example),
        uncounted=list_uncounted(graph.model.graph, graph.names),
        preprocessor=preprocessor,
        data=data,
        profiles=profiles,
        manifest=manifest,
        previous=previous,
    )


def _layers(graph: FloatGraph, example: FloatArray) -> list[Layer]:
    layers = list_layers(graph, example)
    if not any(layer.op in LAYER_OPS and layer.macs for layer in layers):
        raise CompileError(
            f"no {', '.join(LAYER_OPS)} that depends on the input stands outside of If, Loop and"
            " Scan, so nothing would run in int8",
            hint="export the model without control flow, for inputs of a fixed size",
        )
    return layers


def _load_profiles(options: BuildOptions) -> dict[str, DeviceProfile]:
    profiles: dict[str, DeviceProfile] = {}
    for name in options.targets:
        profile = load_profile(name)
        if profile.id in profiles:
            raise CompileError(f"--target: {profile.id} is given twice", exit_code=ExitCode.USAGE)
        profiles[profile.id] = profile
    return profiles


def _load_data(
    options: BuildOptions, preprocessor: Preprocessor, inputs: Sequence[str], progress: Progress
) -> Data:
    read = partial(
        load_dataset,
        contract=preprocessor.spec,
        names=read_names(options.labels) if options.labels else None,
        inputs=inputs,
        progress=progress,
    )
    calibration = read(options.calibration, "calibration", labels_required=False)
    tuning = [calibration]
    if options.selection is not None:
        tuning.append(read(options.selection, "selection", labels_required=False))
    test = read(options.test, "test", labels_required=False)
    check_calibration(calibration)
    check_same_classes([*tuning, test])
    for part in (*tuning, test):
        check_shape(part, preprocessor)
        if part.x.dtype != calibration.x.dtype:
            raise DatasetError(
                f"{part.role} data are {part.x.dtype}, calibration data {calibration.x.dtype};"
                " all must be what the device's source gives"
            )
    constant = [f"calibration data: {found}" for found in calibration.constant_inputs()]
    if len(constant) > _CONSTANT_SHOWN:
        constant[_CONSTANT_SHOWN:] = [
            f"and {len(constant) - _CONSTANT_SHOWN} more constant columns"
        ]
    warnings = (*check_apart(test, tuning), *constant)
    if options.selection is not None:
        return Data(calibration, tuning[1], calibration, test, False, warnings)
    fit, held = selection_split(len(calibration))
    return Data(
        fit=calibration.rows(fit, "calibration"),
        selection=calibration.rows(held, "selection"),
        whole=calibration,
        test=test,
        was_split=True,
        warnings=warnings,
    )


def _manifest(
    options: BuildOptions,
    source: Source,
    graph: FloatGraph,
    spec: PreprocessSpec,
    data: Data,
    variants: list[Variant],
    task: Task,
    *,
    outputs: list[TensorSpec],
    single_score: SingleScore | msgspec.UnsetType,
    previous: str,
) -> ModelManifest:
    ask = read_ask(options.prune, options.sparsity)
    split = f"{SELECTION_SHARE:g} of the calibration data, seed {SEED}"
    return ModelManifest(
        name=options.name,
        version=options.version,
        task=task,
        inputs=input_specs(graph.model.graph),
        outputs=outputs,
        labels=_labels(options, task, 2 if is_single(outputs) else Tensors(outputs).sizes[0]),
        single_score=single_score,
        preprocess=spec,
        variants=variants,
        lineage=Lineage(
            source_digest=source.digest,
            calibration_digest=data.whole.digest,
            test_digest=data.test.digest,
            tools={
                "wherry": __version__,
                "onnxruntime": ort.__version__,
                "onnx": onnx.__version__,
                "numpy": np.__version__,
                **runtime_versions(variants),
            },
            options={
                "effort": options.effort,
                **_limit(options.limits, metric_of(task, data.test.y is not None, options.limits)),
                **({"previous": previous} if previous else {}),
                "prune": ask.words,
                "selection": split if data.was_split else data.selection.digest,
                "sparsity": ask.sparsity,
            },
        ),
    )


def _labels(options: BuildOptions, task: Task, values: int) -> list[str]:
    if task == "classification":
        if 1 < values <= options.limits.top_k:
            raise CompileError(
                f"--top-k {options.limits.top_k}: the model has {values} classes, so every answer"
                " would be right and the gate would prove nothing",
                hint=f"--top-k of at most {values - 1}",
                exit_code=ExitCode.USAGE,
            )
        return read_labels(options.labels, values)
    if options.labels is None:
        return []
    return read_labels(options.labels, len(read_names(options.labels)))


def _limit(limits: Limits, metric: str) -> dict[str, str]:
    """The limit that the metric is judged by, as the lineage tells it."""
    if metric == "fidelity":
        return {"min_cosine": f"{limits.min_cosine:g}"}
    if metric == "error":
        return {"max_error_increase_percent": f"{limits.max_error_increase_percent:g}"}
    found = {"max_drop_pp": f"{limits.max_drop_pp:g}"}
    return found if limits.top_k == 1 else {**found, "top_k": str(limits.top_k)}
