"""A plan as the file of a variant, and what that file is seen to run in int8."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx
from onnx import ModelProto

from compiler.emit.onnx_qdq import activations_for, emit_onnx, scale_cache
from compiler.graph.floatgraph import FloatGraph
from compiler.graph.layers import Layer
from compiler.graph.tail import plan_step, score_step
from compiler.plan.draft import draft_plan
from compiler.plan.plan import Activations, Plan
from compiler.plan.structure import survey
from compiler.proof.audit import Audit, audit
from compiler.tflite.load import litert_schema
from edge_contract.model import Int8Scheme, Variant


def scheme_of(variant: Variant) -> Int8Scheme:
    """The variant's int8 scheme.

    Raises:
        ValueError: it is float.
    """
    if variant.scheme == "float32":
        raise ValueError(f"{variant.file} is float32; expected an int8 variant")
    return variant.scheme


def activations_of(variant: Variant) -> Activations:
    """The kind of plan that the variant is written from."""
    return activations_for(scheme_of(variant))


def check_format(graph: FloatGraph, variant: Variant) -> None:
    """Refuse now, and not after calibration and search, what the variant's format cannot hold.

    A plan of made-up ranges is written and thrown away; nodes have their names in the source.

    Raises:
        CompileError: an operator, or a use of one, that the format lacks.
    """
    if variant.runtime != "litert":
        return
    model = ModelProto.FromString(graph.prepared.SerializeToString())
    taken = Counter(graph.names.get(node.name, "") for node in model.graph.node)
    for node in model.graph.node:
        source = graph.names.get(node.name, "")
        if taken[source] == 1 and source:
            node.name = source
    structure = survey(model)
    ranges = dict.fromkeys(structure.shared.values(), (-1.0, 1.0))
    emit_variant(draft_plan(model, structure, ranges, activations_of(variant)), variant)


def emit_variant(plan: Plan, variant: Variant) -> bytes:
    """The variant's file, deterministic bytes.

    Raises:
        CompileError: the format lacks an operator.
        ValueError: a plan with other activations than ``activations_of(variant)``.
    """
    if variant.runtime == "litert":
        with litert_schema("writing a .tflite file"):
            from compiler.tflite.emit import emit_tflite
        return emit_tflite(plan)
    return emit_onnx(plan, scheme_of(variant))


def emit_scale_cache(plan: Plan, variant: Variant) -> bytes | None:
    """The variant's scale cache, if it has one."""
    return scale_cache(plan) if variant.scale_cache else None


def audit_variant(model: bytes, variant: Variant, layers: list[Layer]) -> Audit:
    """Which layers of the source run in int8 in the variant's file ``model``.

    Raises:
        CompileError: the runtime refuses the file.
    """
    if variant.runtime == "litert":
        with litert_schema("reading a .tflite file"):
            from compiler.tflite.audit import audit_tflite
        return audit_tflite(model, layers)
    return audit(model, variant.scheme, layers)


LITERT_STEPS = 2
"""Kernels of LiteRT's versions and delegates round apart inside a network, which moves a logit by
more than one step now and then: on a ResNet, 1 row in 16."""


def variant_tolerances(
    plan: Plan, model: bytes, variant: Variant, spreads: Mapping[str, float]
) -> list[float]:
    """How far values of each output may move on another device: a step of its last int8 tensor.

    Args:
        model: the file that ``emit_variant`` made of ``plan``.
        spreads: output -> greatest less least value that it gave.
    """
    if variant.runtime == "litert":
        return [LITERT_STEPS * plan_step(plan, name, spread) for name, spread in spreads.items()]
    graph = onnx.load_model_from_string(model)
    return [score_step(graph, name, spread) for name, spread in spreads.items()]
