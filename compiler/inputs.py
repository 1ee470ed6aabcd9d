"""Everything a build starts from, read and checked against each other before any work is done."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort

from compiler.contractcheck import check_contract, float_answer
from compiler.datasets.checks import (
    check_apart,
    check_calibration,
    check_labels,
    check_same_classes,
    check_shape,
)
from compiler.datasets.dataset import Dataset
from compiler.datasets.load import load_dataset
from compiler.errors import CompileError, DatasetError
from compiler.floatgraph import FloatGraph, count_classes, normalise
from compiler.formats import planned_variant, runtime_versions
from compiler.layers import Layer, list_layers
from compiler.options import BuildOptions, check_names, read_labels, read_names, read_preprocess
from compiler.progress import Progress, silent
from compiler.prune.ask import check_targets, read_ask
from compiler.source import Source, load_source
from compiler.split import SEED, SELECTION_SHARE, selection_split
from device_configs.loader import load_profile
from edge_contract import __version__
from edge_contract.errors import ExitCode
from edge_contract.model import Lineage, ModelManifest, TensorSpec
from edge_contract.preprocess import PreprocessSpec
from edge_contract.profile import DeviceProfile
from edge_runtime.errors import InputRefusedError
from edge_runtime.preprocess import Preprocessor


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


@dataclass(frozen=True)
class Inputs:
    """A build's inputs.

    profiles: by target, in the order of the command line.
    manifest: ``model.json`` as it will stand in the bundle.
    """

    source: Source
    graph: FloatGraph
    layers: list[Layer]
    preprocessor: Preprocessor
    data: Data
    profiles: dict[str, DeviceProfile]
    manifest: ModelManifest


def load_inputs(options: BuildOptions, progress: Progress = silent) -> Inputs:
    """Read and check everything that ``options`` names.

    Raises:
        CompileError: something does not fit; says what and what to do.
        ContractError: an unknown or malformed target.
    """
    check_names(options)
    profiles = _load_profiles(options)
    check_targets(read_ask(options.prune, options.sparsity), profiles.values())
    source = load_source(options.model)
    graph = normalise(source)
    spec = read_preprocess(options.preprocess)
    preprocessor = Preprocessor(spec, graph.input_shape)
    data = _load_data(options, preprocessor, progress)
    try:
        example = preprocessor(data.whole.x[0])
    except InputRefusedError as error:
        raise DatasetError(f"calibration data, row 0: {error.message}") from error
    classes = count_classes(graph, example)
    for part in (data.whole, data.selection, data.test):
        check_labels(part, classes)
    doubts = check_contract(
        preprocessor,
        [data.whole, data.selection, data.test],
        float_answer(graph),
        trust=options.trust_preprocess,
    )
    data = replace(data, warnings=(*data.warnings, *doubts))
    return Inputs(
        source=source,
        graph=graph,
        layers=list_layers(graph, example),
        preprocessor=preprocessor,
        data=data,
        profiles=profiles,
        manifest=_manifest(options, source, graph, spec, data, profiles, classes),
    )


def _load_profiles(options: BuildOptions) -> dict[str, DeviceProfile]:
    profiles: dict[str, DeviceProfile] = {}
    for name in options.targets:
        profile = load_profile(name)
        if profile.id in profiles:
            raise CompileError(f"--target: {profile.id} is given twice", exit_code=ExitCode.USAGE)
        profiles[profile.id] = profile
    return profiles


def _load_data(options: BuildOptions, preprocessor: Preprocessor, progress: Progress) -> Data:
    read = partial(
        load_dataset,
        contract=preprocessor.spec,
        names=read_names(options.labels) if options.labels else None,
        progress=progress,
    )
    calibration = read(options.calibration, "calibration", labels_required=False)
    tuning = [calibration]
    if options.selection is not None:
        tuning.append(read(options.selection, "selection", labels_required=False))
    test = read(options.test, "test", labels_required=True)
    check_calibration(calibration)
    check_same_classes([*tuning, test])
    for part in (*tuning, test):
        check_shape(part, preprocessor)
        if part.x.dtype != calibration.x.dtype:
            raise DatasetError(
                f"{part.role} data are {part.x.dtype}, calibration data {calibration.x.dtype};"
                " all must be what the device's source gives"
            )
    warnings = tuple(check_apart(test, tuning))
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
    profiles: dict[str, DeviceProfile],
    classes: int,
) -> ModelManifest:
    batch = None if graph.batch_is_free else 1
    variants = [planned_variant(profile, options.format) for profile in profiles.values()]
    ask = read_ask(options.prune, options.sparsity)
    split = f"{SELECTION_SHARE:g} of the calibration data, seed {SEED}"
    return ModelManifest(
        name=options.name,
        version=options.version,
        task="classification",
        inputs=[
            TensorSpec(name=graph.input_name, dtype="float32", shape=[batch, *graph.input_shape])
        ],
        outputs=[TensorSpec(name=graph.output_name, dtype="float32", shape=[batch, classes])],
        labels=read_labels(options.labels, classes),
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
                "max_drop_pp": f"{options.max_drop_pp:g}",
                "prune": ask.words,
                "selection": split if data.was_split else data.selection.digest,
                "sparsity": ask.sparsity,
            },
        ),
    )
