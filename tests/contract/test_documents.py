"""Topics, health specs, golden vectors, model manifests and their limits."""

from __future__ import annotations

import contextlib
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_contract.codec import MESSAGE_LIMIT_BYTES, decode_json, encode_json
from edge_contract.desired import Desired, DirectorKey, Directors, decode_desired
from edge_contract.errors import ContractError
from edge_contract.golden import GoldenVectors, Tensor, decode_golden, encode_golden
from edge_contract.health import HealthSpec, tighten
from edge_contract.messages import BlobAsk, Event
from edge_contract.metadata import MetadataSet, decode_metadata_set, encode_metadata_set
from edge_contract.model import (
    Lineage,
    ModelManifest,
    TensorSpec,
    Variant,
    decode_model_manifest,
)
from edge_contract.preprocess import PreprocessSpec
from edge_contract.topics import FROM_DEVICE, device_filters, manager_filters, parse_topic, topic


def test_topics_round_trip() -> None:
    text = topic("shop", "cam-1", "telemetry", "summary")
    assert text == "edge/v1/shop/cam-1/telemetry/summary"
    assert str(parse_topic(text)) == text


@pytest.mark.parametrize(
    ("fleet", "device", "cls", "name"),
    [
        ("a/b", "d", "state", "agent"),
        ("f", "+", "state", "agent"),
        ("f", "#", "state", "agent"),
        ("f", "", "state", "agent"),
        ("f", "D", "state", "agent"),
        ("f", "_other", "state", "agent"),
        ("f", "d", "nonsense", "agent"),
        ("f", "d", "state", "a/b"),
        ("f", "d", "state", "$x"),
    ],
)
def test_odd_topic_parts_are_refused(fleet: str, device: str, cls: str, name: str) -> None:
    with pytest.raises(ContractError):
        topic(fleet, device, cls, name)


@given(st.text(max_size=80))
def test_any_text_is_a_topic_or_a_contract_error(text: str) -> None:
    with contextlib.suppress(ContractError):
        assert str(parse_topic(text)) == text


def test_a_device_never_subscribes_to_another_device() -> None:
    for name in device_filters("shop", "cam-1", "digits"):
        assert name.startswith(("edge/v1/shop/cam-1/", "edge/v1/shop/_fleet/"))


def test_the_manager_hears_every_class_of_a_device() -> None:
    heard = {name.split("/")[4] for name in manager_filters("shop")}
    assert heard == set(FROM_DEVICE) | {"blob", "enroll"}


@pytest.mark.parametrize(
    "change",
    [
        {"trial_s": 0.0},
        {"trial_s": -1.0},
        {"trial_s": math.nan},
        {"latency_ratio_max": math.inf},
        {"latency_ratio_max": 0.0},
        {"errors_share_max": 1.0},
        {"errors_share_max": -0.1},
        {"frames_min": 0},
        {"restarts_max": -1},
        {"deadline_s": 1.0},
    ],
)
def test_a_malformed_health_limit_never_reads_as_off(change: dict[str, float]) -> None:
    with pytest.raises(ContractError, match="health"):
        HealthSpec(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", [b'{"trial_s":"off"}', b'{"frames_min":null}', b'{"trail_s":3}', b'{"trial_s":1e999}']
)
def test_a_misspelt_or_mistyped_health_limit_is_refused(text: bytes) -> None:
    with pytest.raises(ContractError):
        decode_json(text, HealthSpec, what="test")


specs = st.builds(
    HealthSpec,
    trial_s=st.floats(0.1, 100),
    frames_min=st.integers(1, 1000),
    latency_ratio_max=st.floats(1, 100),
    latency_p95_max_ms=st.floats(1, 1000),
    errors_share_max=st.floats(0, 0.99),
    restarts_max=st.integers(0, 9),
    deadline_s=st.floats(100, 1000),
)


@given(specs, specs)
def test_a_device_policy_only_tightens(asked: HealthSpec, own: HealthSpec) -> None:
    both = tighten(asked, own)
    for spec in (asked, own):
        assert both.trial_s >= spec.trial_s
        assert both.frames_min >= spec.frames_min
        assert both.latency_ratio_max <= spec.latency_ratio_max
        assert both.latency_p95_max_ms <= spec.latency_p95_max_ms
        assert both.errors_share_max <= spec.errors_share_max
        assert both.restarts_max <= spec.restarts_max
    assert tighten(both, own) == both


def golden(**change: object) -> GoldenVectors:
    base = {
        "frames": Tensor("uint8", [2, 3], bytes(6)),
        "scores": Tensor("float32", [2, 2], bytes(16)),
        "tolerance_abs": 0.01,
    }
    return GoldenVectors(**(base | change))  # type: ignore[arg-type]


def test_golden_vectors_round_trip() -> None:
    assert decode_golden(encode_golden(golden()), where="test") == golden()


@pytest.mark.parametrize(
    "change",
    [
        {"tolerance_abs": math.nan},
        {"tolerance_abs": math.inf},
        {"tolerance_abs": -1.0},
        {"frames": Tensor("uint8", [3, 3], bytes(9))},
        {"scores": Tensor("float32", [4], bytes(16))},
        {"frames": Tensor("uint8", [0, 3], b""), "scores": Tensor("float32", [0, 2], b"")},
    ],
)
def test_golden_vectors_that_could_never_fail_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ContractError):
        decode_golden(encode_golden(golden(**change)), where="test")


def test_a_tensor_says_what_its_shape_needs() -> None:
    with pytest.raises(ContractError, match="needs 24 bytes, got 6"):
        Tensor("float32", [2, 3], bytes(6))


@given(st.binary(max_size=200))
def test_random_bytes_are_never_golden_vectors(data: bytes) -> None:
    with pytest.raises(ContractError):
        decode_golden(data, where="fuzz")


def model(**change: object) -> ModelManifest:
    base: dict[str, object] = {
        "name": "kws",
        "version": "1.0.0",
        "task": "classification",
        "inputs": [TensorSpec(name="x", dtype="float32", shape=[None, 4])],
        "outputs": [TensorSpec(name="y", dtype="float32", shape=[None, 2])],
        "labels": ["a", "b"],
        "preprocess": PreprocessSpec(),
        "variants": [
            Variant(target="pi", runtime="onnxruntime", scheme="s8s8", file="a", golden="b")
        ],
        "lineage": Lineage(
            source_digest="", calibration_digest="", test_digest="", tools={}, options={}
        ),
    }
    return ModelManifest(**(base | change))  # type: ignore[arg-type]


def test_a_model_manifest_round_trips_and_names_its_targets() -> None:
    decoded = decode_model_manifest(encode_json(model()), where="test")
    assert decoded == model()
    assert decoded.variant_for("pi").file == "a"
    with pytest.raises(ContractError, match=r"compiled for \['pi'\]"):
        decoded.variant_for("orin")


@pytest.mark.parametrize(
    "change",
    [
        {"variants": []},
        {"variants": [*model().variants, *model().variants]},
        {"name": "No Spaces"},
        {"version": "1.0"},
        {"version": "v1.0.0"},
        {"task": "poetry"},
        {"single_score": "logit"},
        {"outputs": [TensorSpec(name="y", dtype="float32", shape=[None, 1])]},
        {
            "outputs": [TensorSpec(name="y", dtype="float32", shape=[None, 1])],
            "labels": ["a", "b", "c"],
            "single_score": "logit",
        },
        {
            "variants": [
                Variant(target="p", runtime="onnxruntime", scheme="s8s8", file="../x", golden="b")
            ]
        },
    ],
)
def test_a_malformed_model_manifest_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ContractError):
        decode_model_manifest(encode_json(model(**change)), where="test")


@pytest.mark.parametrize(
    "text",
    [
        {"kind": "image"},
        {"kind": "image", "height_px": 4, "width_px": 4, "mean": [0.5], "std": [0.5]},
        {"std": [0.0], "mean": [0.0]},
        {"mean": [0.0]},
        {"scale": 0.0},
        {"colour": "CMYK"},
        {"sclae": 1.0},
    ],
)
def test_a_malformed_preprocessing_contract_is_refused(text: dict[str, object]) -> None:
    with pytest.raises((ContractError, msgspec.ValidationError)):
        msgspec.convert(text, PreprocessSpec)


def test_a_desired_document_round_trips_and_checks_its_digest() -> None:
    desired = Desired(
        fleet="f",
        device="d",
        device_key="k",
        epoch=0,
        seq=1,
        issued_at=1.0,
        expires=2.0,
        timestamp_version_min=1,
        line="kws",
        version="1.0.0",
        hardware="generic-x86-64",
        manifest_digest="sha256:" + "a" * 64,
        rollout="r-1",
    )
    assert decode_desired(encode_json(desired)) == desired
    with pytest.raises(ContractError, match="manifest_digest"):
        decode_desired(encode_json(msgspec.structs.replace(desired, manifest_digest="md5:1")))


def test_a_director_key_counts_only_in_its_scope_and_time() -> None:
    key = DirectorKey(public="ab" * 32, fleets=["shop"], lines=["kws"], expires=100.0)
    directors = Directors(keys=[key])
    assert directors.trusted("shop", "kws", 99.0) == [bytes.fromhex("ab" * 32)]
    assert directors.trusted("shop", "kws", 100.0) == []
    assert directors.trusted("other", "kws", 1.0) == []
    assert directors.trusted("shop", "ic", 1.0) == []


def test_a_metadata_set_round_trips() -> None:
    value = MetadataSet(
        line="kws",
        roots=[b"1", b"2"],
        timestamp=b"t",
        snapshot=b"s",
        targets=b"\xff",
        line_role=b"l",
        directors=b"d",
    )
    assert decode_metadata_set(encode_metadata_set(value), where="test") == value


def test_what_is_too_long_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ContractError, match="at most"):
        decode_json(b"[" * (MESSAGE_LIMIT_BYTES + 1), BlobAsk, what="test")


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    with pytest.raises(ContractError):
        decode_json(b'{"detail":' + b"[" * 100_000, Event, what="test")


@given(st.binary(max_size=200))
def test_random_bytes_are_never_a_message(data: bytes) -> None:
    with pytest.raises(ContractError):
        decode_json(data, Event, what="fuzz")
