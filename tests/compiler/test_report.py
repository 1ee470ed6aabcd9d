"""What the parts of a report promise, each by itself."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.build import build
from compiler.calibrate.ranges import BINS, TensorStats
from compiler.graph.memory import peak_bytes, tensor_sizes
from compiler.metrics.measure import Limits
from compiler.options import BuildOptions
from compiler.plan.diagnose import LayerFidelity
from compiler.plan.fidelity import cosine
from compiler.plan.plan import grid_of
from compiler.proof.gate import judge
from compiler.proof.latency import Latency, why_slower
from compiler.report.build import BuildReport
from compiler.report.confusion import confusion_section
from compiler.report.exclusions import MACS_SHARE_MAX, suggest_exclusions
from compiler.report.flips import SHOWN, as_picture, drawing, flips_section, worst_flips
from compiler.report.histograms import _histogram
from compiler.report.html import noise_shares, render_html
from compiler.report.names import NAME_CHARS, short_name
from compiler.report.sbom import loaded_distributions, sbom
from compiler.report.section import Section
from compiler.report.terminal import summary_lines
from edge_contract.model import Lineage
from edge_contract.preprocess import PreprocessSpec
from tests.compiler.conftest import Small
from tests.compiler.models import small_cnn

LABELS = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def built_report(small: Small, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    options = BuildOptions(
        model=small.model,
        name="stripes",
        version="1.0.0",
        targets=("raspberry-pi-4",),
        calibration=small.calibration,
        test=small.test,
        out=Path(tmp_path_factory.mktemp("report")) / "out",
        limits=Limits(max_drop_pp=3),
        effort="fast",
    )
    return build(options, clock=time.monotonic)


def scores(answers: list[int], margins: list[float]) -> np.ndarray:
    """float32 [n, 3]: the answer leads the class after it by its margin."""
    found = np.zeros((len(answers), 3), np.float32)
    for row, (answer, margin) in enumerate(zip(answers, margins, strict=True)):
        found[row, answer] = margin
    return found


def test_worst_flips_put_lost_before_gained_and_the_widest_margin_first() -> None:
    y = np.array([0, 0, 0, 1, 2])
    floating = scores([0, 0, 0, 2, 2], [0.5] * 5)
    int8 = scores([1, 1, 0, 1, 2], [0.1, 0.4, 0.9, 0.8, 0.7])
    found = worst_flips(floating, int8, y, LABELS)
    assert [(flip.row, flip.lost) for flip in found] == [(1, True), (0, True), (3, False)]
    assert (found[0].label, found[0].int8_label) == ("ant", "bee")
    assert found[0].margin == pytest.approx(0.4)
    assert (found[2].label, found[2].float_label) == ("bee", "cat")


def test_only_the_worst_flips_are_shown_and_none_of_their_pixels_enter_the_json() -> None:
    y = np.zeros(50, np.int64)
    floating, int8 = scores([0] * 50, [1.0] * 50), scores([1] * 50, [1.0] * 50)
    frames = np.full((50, 200, 100, 3), 128, np.uint8)
    spec = PreprocessSpec(kind="image", height_px=32, width_px=32, resize="linear")
    section = flips_section(worst_flips(floating, int8, y, LABELS), frames, spec)
    assert len(section.data) == len(section.view["flips"]) == SHOWN
    assert "The worst 20 of 50 flips" in section.note
    assert "base64" not in json.dumps(section.data)
    _, drawn = section.view["flips"][0]
    assert (drawn["width"], drawn["height"]) == (48, 96)


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_a_red_frame_is_drawn_red_whatever_its_layout_and_colour_order(
    colour: str, layout: str
) -> None:
    frame = np.zeros((10, 12, 3), np.uint8)
    frame[:, :, colour.index("R")] = 250
    if layout == "NCHW":
        frame = frame.transpose(2, 0, 1)
    spec = PreprocessSpec(
        kind="image",
        height_px=10,
        width_px=12,
        colour=colour,  # type: ignore[arg-type]
        layout=layout,  # type: ignore[arg-type]
    )
    uri = str(drawing(frame, spec)["png"])
    data = np.frombuffer(base64.b64decode(uri.removeprefix("data:image/png;base64,")), np.uint8)
    seen = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert seen is not None
    assert seen.shape == (10, 12, 3)
    assert seen[5, 5].tolist() == [0, 0, 250]  # OpenCV reads BGR


def test_frames_that_are_no_pictures_become_a_small_plot() -> None:
    spec = PreprocessSpec()
    wave = np.sin(np.linspace(0, 9, 500)).astype(np.float32)
    drawn = drawing(wave, spec)
    assert drawn["count"] == 500
    assert len(str(drawn["points"]).split()) == 64
    assert as_picture(np.zeros((4, 4), np.float32), spec) is None
    picture = as_picture(np.linspace(-3, 3, 490, dtype=np.float32).reshape(49, 10, 1), spec)
    assert picture is not None
    assert (picture.min(), picture.max()) == (0, 255)
    assert drawing(np.zeros(7, np.float32), spec)["high"] == 0.0


def test_the_confusion_difference_names_what_moved_where() -> None:
    y = np.array([0, 0, 1, 2])
    section = confusion_section(
        scores([0, 0, 1, 2], [1] * 4), scores([0, 1, 1, 2], [1] * 4), y, LABELS
    )
    assert section.data == [
        {"label": "ant", "answer": "ant", "change": -1},
        {"label": "ant", "answer": "bee", "change": 1},
    ]
    same = confusion_section(scores([0], [1]), scores([0], [1]), np.array([0]), LABELS)
    assert same.data == []
    assert same.note == "No cell of the confusion matrix changed."


def test_of_many_classes_those_that_changed_most_are_drawn() -> None:
    labels = [f"c{place}" for place in range(100)]
    y = np.full(5, 90)
    floating, int8 = np.zeros((5, 100), np.float32), np.zeros((5, 100), np.float32)
    floating[:, 90] = 1
    int8[:, 77] = 1
    section = confusion_section(floating, int8, y, labels)
    assert {"c77", "c90"} <= set(section.view["labels"])
    assert "76 others are left out" in section.note


@given(st.lists(st.integers(-9000, 9000), min_size=4, max_size=40), st.floats(0.1, 1.0))
def test_clip_share_is_the_share_of_values_outside_the_grid(values: list[int], cut: float) -> None:
    low, high = float(min(values)), float(max(values))
    if high <= low:
        return
    where = ((np.array(values) - low) * (BINS / (high - low))).astype(int).clip(0, BINS - 1)
    stats = TensorStats(low, high, np.bincount(where, minlength=BINS).astype(np.int64))
    grid = grid_of(low * cut, high * cut, "asymmetric")
    found = _histogram("layer", "input", stats, grid)
    bin_width = (high - low) / BINS
    margin = grid.scale / 2
    outside = [v < grid.low - margin or v > grid.high + margin for v in values]
    unsure = [
        min(abs(v - grid.low + margin), abs(v - grid.high - margin)) <= bin_width for v in values
    ]
    assert abs(found.clip_share * len(values) - sum(outside)) <= sum(unsure) + 1e-6
    assert sum(found.bars) == len(values)


def test_suggested_exclusions_say_what_they_gain_and_never_cost_a_quarter_of_the_work() -> None:
    ranking = [
        ("big", LayerFidelity("Conv_0", 30, 20.0, 1.0)),
        ("small", LayerFidelity("Conv_1", 30, 21.0, 1.0)),
        ("quiet", LayerFidelity("Conv_2", 30, 60.0, 1.0)),
    ]
    (one,) = suggest_exclusions(ranking, {"big": 90, "small": 9, "quiet": 1}, 100)
    assert one.name == "small"
    assert one.macs_share == pytest.approx(0.09)
    assert one.macs_share < MACS_SHARE_MAX
    noise = [10**-2, 10**-2.1, 10**-6]
    assert one.gain_db == pytest.approx(10 * np.log10(sum(noise) / (noise[0] + noise[2])))
    assert sum(noise_shares(ranking)) == pytest.approx(1)


def test_paired_ratio_tells_slower_from_noise() -> None:
    random = np.random.default_rng(3)
    floating = random.uniform(1, 2, 100)
    twice = Latency(tuple(floating), tuple(floating * 2), 0.1, "x86_64")
    assert twice.ratio == pytest.approx(2)
    assert twice.slower
    noise = Latency(
        tuple(floating), tuple(floating * np.exp(random.uniform(-1, 1, 100))), 0.1, "x86_64"
    )
    assert not noise.slower
    low, high = noise.ratio_bounds
    assert low < noise.ratio < high


def test_x86_timing_never_decides_for_arm_and_slow_s8s8_is_expected_there() -> None:
    latency = Latency((1.0,) * 20, (2.0,) * 20, 0.0, "x86_64")
    assert not latency.decides_for("aarch64")
    assert latency.decides_for("x86_64")
    why = why_slower(latency, "onnxruntime s8s8", 2, 9, 50_000_000)
    assert "expected here" in why[0]
    assert "2 of 9 layers run in float" in why[1]
    (usual,) = why_slower(latency, "onnxruntime u8s8", 0, 9, 50_000_000)
    assert "no multiple" in usual


def test_memory_counts_what_is_alive_at_once() -> None:
    relu = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,1,4,4] x) => (float[1,1,4,4] y) <float[1] two = {2}>
        { a = Mul(x, two)  b = Relu(a)  c = Mul(b, two)  y = Add(c, b) }"""
    )
    sizes = tensor_sizes(relu, np.ones((1, 1, 4, 4), np.float32))
    assert sizes == dict.fromkeys(("x", "a", "b", "c", "y"), 16)
    assert peak_bytes(relu, sizes, frozenset()) == 3 * 16 * 4  # b, c and y; x is gone
    assert peak_bytes(relu, sizes, {"b", "c", "y"}) == 16 * (4 + 1)  # x, and a in the place of b


def test_memory_of_a_real_network_is_below_all_of_its_tensors() -> None:
    model = small_cnn(batch=1)
    sizes = tensor_sizes(model, np.ones((1, 12, 12, 1), np.float32))
    peak = peak_bytes(model, sizes, frozenset())
    assert 4 * max(sizes.values()) <= peak < 4 * sum(sizes.values())


def test_names_are_short_and_cosine_is_one_for_the_same_direction() -> None:
    assert short_name("a/Relu;b/Conv;c/Bias") == "a/Relu (+2)"
    assert len(short_name("x" * 300)) == NAME_CHARS
    values = np.array([1.0, 2.0], np.float32)
    assert cosine(values, values * 3) == pytest.approx(1)
    assert cosine(values, values * 0) == 0
    assert cosine(values * 0, values * 0) == 1


def test_the_bill_of_materials_is_valid_cyclonedx_and_repeats() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    lineage = Lineage(
        source_digest="sha256:" + "1" * 64,
        calibration_digest="sha256:" + "2" * 64,
        test_digest="sha256:" + "3" * 64,
        tools={},
        options={},
    )
    found = loaded_distributions()
    assert "onnxruntime" in found
    for digest in ("sha256:" + "4" * 64, None):
        document = sbom("kws", "1.0.0", digest, lineage, found, "3.11.2")
        text = json.dumps(document)
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        again = sbom("kws", "1.0.0", digest, lineage, loaded_distributions(), "3.11.2")
        assert document == again


def test_a_plain_table_is_all_that_a_new_section_needs(built_report: BuildReport) -> None:
    added = Section(
        key="pruning",
        title="Pruning <b>",
        data={"macs_share": 0.81},
        columns=("group", "before", "after"),
        rows=(("Conv_3", "64", "48"),),
        lines=("pruned    19 % of the MACs",),
        proven=True,
    )
    target = built_report.targets[0]
    report = replace(built_report, targets=(replace(target, sections=(*target.sections, added)),))
    assert report.as_json()["targets"]["raspberry-pi-4"]["pruning"] == {"macs_share": 0.81}
    assert report.targets[0].evidence()["pruning"] == {"macs_share": 0.81}
    assert "latency" not in report.targets[0].evidence()
    assert "  pruned    19 % of the MACs" in summary_lines(report)
    page = render_html(report).decode()
    assert "Pruning &lt;b&gt;" in page
    assert "<td>Conv_3</td><td>64</td><td>48</td>" in page


@pytest.mark.parametrize(
    ("lost", "samples", "limit", "said"),
    [
        (0, 700, 1.0, "may ship to raspberry-pi-4: int8 costs at most 0.43 percentage points"),
        (
            30,
            700,
            1.0,
            "may not ship: on raspberry-pi-4 int8 costs more than 1 percentage point of",
        ),
        (0, 30, 1.0, "may not ship yet: on raspberry-pi-4 the test samples are too few"),
    ],
)
def test_the_headline_is_the_verdict_in_words(
    built_report: BuildReport, lost: int, samples: int, limit: float, said: str
) -> None:
    gate = judge(samples, lost, 0, limit)
    target = replace(built_report.targets[0], gate=gate)
    report = replace(built_report, targets=(target,))
    assert said in report.headline
    assert said in render_html(report).decode()


def test_a_failure_that_is_not_the_accuracys_is_not_blamed_on_it(
    built_report: BuildReport,
) -> None:
    gate = replace(judge(700, 0, 0, 1.0), verdict="fail", reason="the audit found float kernels")
    report = replace(built_report, targets=(replace(built_report.targets[0], gate=gate),))
    assert report.headline.endswith("on raspberry-pi-4 a check failed.")
