"""wherry's int8 beside the static full-int8 recipes of other tools, in one table.

    python benchmarks/quantize.py --data DIR [--json] [--draws 5] [--peers ort,nncf,ai-edge]

``DIR`` holds a folder a model, ``<name>/`` with ``<name>_float.onnx``, ``calibration.npz`` (x),
``test.npz`` (x, y) and, for ai-edge-quantizer, ``<name>_float.tflite``. Each draw takes calibration
samples anew; every tool gets the same ones. ONNX files are run and audited with the very flags that
the agent uses, .tflite files in ai-edge-litert. Peers other than onnxruntime live in environments
of their own, which this program makes under a cache directory and fills by name and version.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from compiler.audit import audit  # noqa: E402
from compiler.floatgraph import FloatGraph, normalise  # noqa: E402
from compiler.layers import Layer, list_layers  # noqa: E402
from compiler.plan.fidelity import (  # noqa: E402
    logit_snr_db,
    logits_from_scores,
    tails_of,
)
from compiler.source import load_source  # noqa: E402
from edge_runtime.onnx_session import session_options  # noqa: E402

PEERS = {
    "ort": (),
    "nncf": ("nncf==3.4.0", "onnx", "onnxruntime"),
    "ai-edge": ("ai-edge-quantizer==0.10.0", "ai-edge-litert==2.3.0"),
}
"""Peer -> what its environment is filled with; onnxruntime is in ours."""

MACS_SHARE_MIN = 0.99
SCORE_STEP = 1 / 256
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Two-sided 95 % quantiles of Student's t for so many draws."""


@dataclass(frozen=True)
class Recipe:
    """One row of the table.

    schemes: that it is a peer for: ``s8s8`` (ARM) or ``s8s8-symmetric`` (Jetson).
    """

    tool: str
    name: str
    worker: str
    schemes: tuple[str, ...]


WHERRY = [
    Recipe("wherry", e, "wherry_plan.py", ("s8s8", "s8s8-symmetric")) for e in ("fast", "normal")
]
RECIPES = [
    Recipe("ort", "minmax", "ort_static.py", ("s8s8",)),
    Recipe("ort", "percentile", "ort_static.py", ("s8s8",)),
    Recipe("ort", "minmax/symmetric", "ort_static.py", ("s8s8-symmetric",)),
    Recipe("ort", "percentile/symmetric", "ort_static.py", ("s8s8-symmetric",)),
    Recipe("nncf", "mixed/fast", "nncf_static.py", ("s8s8",)),
    Recipe("nncf", "mixed/accurate", "nncf_static.py", ("s8s8",)),
    Recipe("nncf", "symmetric/fast", "nncf_static.py", ("s8s8-symmetric",)),
    Recipe("nncf", "symmetric/none", "nncf_static.py", ("s8s8-symmetric",)),
    Recipe("ai-edge", "static_wi8_ai8", "ai_edge_static.py", ("s8s8",)),
]


@dataclass(frozen=True)
class Figures:
    """One file: what was measured of it on one draw. Shares and accuracies are 0..1."""

    accuracy: float
    agreement: float
    snr_db: float
    size_bytes: int
    macs_share: float
    seconds: float
    peak_mb: float


@dataclass
class Model:
    """A float model and its data."""

    name: str
    graph: FloatGraph
    layers: list[Layer]
    onnx: Path
    tflite: Path | None
    calibration: np.ndarray
    x: np.ndarray
    y: np.ndarray
    scores: np.ndarray
    head: str


def main() -> int:
    """Run it; 0 where everything ran, 2 where the data are not there."""
    options = _arguments()
    folders = _folders(options.data, options.models)
    if not folders:
        print(
            f"no model in {options.data}: expected <name>/<name>_float.onnx, calibration.npz and"
            " test.npz; nothing was measured",
            file=sys.stderr,
        )
        return 2
    peers = [name for name in options.peers.split(",") if name]
    unknown = sorted(set(peers) - set(PEERS))
    if unknown:
        print(f"--peers: {', '.join(unknown)} unknown; know {', '.join(PEERS)}", file=sys.stderr)
        return 2
    pythons = {name: _environment(options.cache, name) for name in peers}
    pythons["wherry"] = sys.executable
    report: dict[str, Any] = {"draws": options.draws, "models": {}}
    with tempfile.TemporaryDirectory(prefix="wherry-bench-") as scratch:
        for folder in folders:
            model = _load(folder, Path(scratch), options.test_samples)
            rows = _measure(model, pythons, options.draws, Path(scratch))
            report["models"][model.name] = _summary(model, rows)
            if not options.json:
                _print(model, report["models"][model.name])
    if options.json:
        print(json.dumps(report, indent=2))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wherry-bench"
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder a model")
    parser.add_argument("--models", default="", help="names, separated by commas; default: all")
    parser.add_argument("--draws", type=int, default=5, help="calibration draws")
    parser.add_argument("--peers", default="ort,nncf,ai-edge", help="tools, separated by commas")
    parser.add_argument("--test-samples", type=int, default=2000, help="at most so many")
    parser.add_argument("--cache", type=Path, default=cache, help="where the peers' venvs lie")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_args()


def _folders(data: Path, names: str) -> list[Path]:
    wanted = set(filter(None, names.split(",")))
    found = sorted(path.parent for path in data.glob("*/*_float.onnx"))
    return [
        path
        for path in found
        if (not wanted or path.name in wanted)
        and (path / "calibration.npz").is_file()
        and (path / "test.npz").is_file()
    ]


def _environment(cache: Path, peer: str) -> str:
    """The interpreter of a peer's own environment, made and filled where it is not there."""
    packages = PEERS[peer]
    if not packages:
        return sys.executable
    folder = cache / peer
    python = folder / "bin" / "python"
    done = folder / "installed.txt"
    wanted = "\n".join(packages)
    if not done.is_file() or done.read_text() != wanted:
        print(f"installing {', '.join(packages)} into {folder}", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True, symlinks=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        done.write_text(wanted)
    return str(python)


def _load(folder: Path, scratch: Path, limit: int) -> Model:
    name = folder.name
    source = next(iter(sorted(folder.glob("*_float.onnx"))))
    graph = normalise(load_source(source))
    normalised = scratch / f"{name}.onnx"
    # Every tool gets the form with short names: what exporters write would weigh on the peers.
    normalised.write_bytes(graph.model.SerializeToString())
    with np.load(folder / "calibration.npz", allow_pickle=False) as archive:
        calibration = np.asarray(archive["x"], np.float32)
    with np.load(folder / "test.npz", allow_pickle=False) as archive:
        x, y = np.asarray(archive["x"][:limit], np.float32), archive["y"][:limit]
    scores = _answers(normalised.read_bytes(), "float32", graph.input_name, x)
    tflite = source.with_suffix(".tflite")
    return Model(
        name=name,
        graph=graph,
        layers=list_layers(graph, x[:1]),
        onnx=normalised,
        tflite=tflite if tflite.is_file() else None,
        calibration=calibration,
        x=x,
        y=y,
        scores=scores,
        head=tails_of(graph.prepared).heads[0],
    )


def _measure(
    model: Model, pythons: dict[str, str], draws: int, scratch: Path
) -> dict[tuple[str, Recipe], list[Figures]]:
    rows: dict[tuple[str, Recipe], list[Figures]] = {}
    test = scratch / f"{model.name}_test.npz"
    np.savez(test, x=model.x)
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(model.calibration))
        chosen = model.calibration[order[: min(256, round(0.8 * len(order)))]]
        samples = scratch / f"{model.name}_{draw}.npz"
        np.savez(samples, x=chosen)
        for scheme, recipe in _plan_of(pythons):
            if recipe.tool == "ai-edge" and model.tflite is None:
                continue
            print(
                f"{model.name} draw {draw}: {recipe.tool} {recipe.name} {scheme}",
                file=sys.stderr,
                flush=True,
            )
            suffix = "tflite" if recipe.tool == "ai-edge" else "onnx"
            out = scratch / f"out.{suffix}"
            job = {
                "model": str(model.tflite if recipe.tool == "ai-edge" else model.onnx),
                "samples": str(samples),
                "input": model.graph.input_name,
                "recipe": recipe.name,
                "scheme": scheme,
                "out": str(out),
            }
            answer = _run(pythons[recipe.tool], recipe.worker, job)
            if answer is None:
                continue
            figures = _figures(model, out, test, pythons, answer)
            rows.setdefault((scheme, recipe), []).append(figures)
    return rows


def _plan_of(pythons: dict[str, str]) -> Iterator[tuple[str, Recipe]]:
    for recipe in (*WHERRY, *RECIPES):
        if recipe.tool in pythons:
            for scheme in recipe.schemes:
                yield scheme, recipe


def _run(python: str, worker: str, job: dict[str, str]) -> dict[str, float] | None:
    """One worker's measurement; ``None``, with its last words, where it failed."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    if python != sys.executable:
        environment.pop("PYTHONPATH")
    done = subprocess.run(
        [python, str(HERE / "peers" / worker)],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        tail = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"  {worker} {job['recipe']} failed: {tail[:300]}", file=sys.stderr)
        return None
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _figures(
    model: Model, out: Path, test: Path, pythons: dict[str, str], answer: dict[str, float]
) -> Figures:
    if out.suffix == ".tflite":
        target = out.with_suffix(".npz")
        job = {"model": str(out), "samples": str(test), "recipe": "answer", "out": str(target)}
        if _run(pythons["ai-edge"], "ai_edge_static.py", job) is None:
            raise SystemExit("ai-edge-litert cannot run what its quantiser made")
        with np.load(target, allow_pickle=False) as archive:
            scores, share = archive["y"].reshape(len(model.x), -1), float(archive["share"])
    else:
        data = out.read_bytes()
        scores = _answers(data, "s8s8", model.graph.input_name, model.x)
        share = audit(data, "s8s8", model.layers).macs_share
    # Tools that quantise the softmax show nothing below a step of 1/256; none is blamed for that.
    floor = SCORE_STEP if model.head == "Softmax" else -np.inf
    reference = logits_from_scores(np.maximum(model.scores, floor), model.head)
    found = logits_from_scores(np.maximum(scores, floor), model.head)
    return Figures(
        accuracy=float((scores.argmax(1) == model.y).mean()),
        agreement=float((scores.argmax(1) == model.scores.argmax(1)).mean()),
        snr_db=logit_snr_db(reference, found, model.head),
        size_bytes=out.stat().st_size,
        macs_share=share,
        seconds=answer["seconds"],
        peak_mb=answer["peak_mb"],
    )


def _answers(data: bytes, scheme: str, name: str, x: np.ndarray) -> np.ndarray:
    """Scores of one frame a run, by the flags that devices use, on two sessions at a time."""
    parts = np.array_split(x, 2)

    def work(rows: np.ndarray) -> np.ndarray:
        session = ort.InferenceSession(
            data, session_options(scheme), providers=["CPUExecutionProvider"]
        )
        return np.concatenate([session.run(None, {name: row[None]})[0] for row in rows])

    with ThreadPoolExecutor(2) as pool:
        return np.concatenate(list(pool.map(work, parts))).reshape(len(x), -1)


def _summary(model: Model, rows: dict[tuple[str, Recipe], list[Figures]]) -> dict[str, Any]:
    table = []
    for (scheme, recipe), draws in rows.items():
        means = {
            key: statistics.fmean(asdict(one)[key] for one in draws)
            for key in (
                "accuracy",
                "agreement",
                "snr_db",
                "size_bytes",
                "macs_share",
                "seconds",
                "peak_mb",
            )
        }
        values = [one.agreement for one in draws]
        table.append(
            {
                "tool": recipe.tool,
                "recipe": recipe.name,
                "scheme": scheme,
                **means,
                "agreement_sd": statistics.stdev(values) if len(values) > 1 else 0.0,
                "draws": [asdict(one) for one in draws],
            }
        )
    return {
        "float_accuracy": float((model.scores.argmax(1) == model.y).mean()),
        "test_samples": len(model.x),
        "rows": table,
        "verdicts": [
            _verdict(table, scheme, effort.name)
            for scheme in ("s8s8", "s8s8-symmetric")
            for effort in WHERRY
        ],
    }


def _verdict(table: list[dict[str, Any]], scheme: str, effort: str) -> dict[str, Any]:
    """wherry against the peer of the scheme with the best mean agreement that counts."""
    ours = next(
        (
            r
            for r in table
            if r["tool"] == "wherry" and r["recipe"] == effort and r["scheme"] == scheme
        ),
        None,
    )
    peers = [
        r
        for r in table
        if r["tool"] != "wherry" and r["scheme"] == scheme and r["macs_share"] >= MACS_SHARE_MIN
    ]
    if ours is None or not peers:
        return {"scheme": scheme, "effort": effort, "best_peer": None}
    best = max(peers, key=lambda row: row["agreement"])
    pairs = [
        a["agreement"] - b["agreement"] for a, b in zip(ours["draws"], best["draws"], strict=False)
    ]
    mean = statistics.fmean(pairs)
    spread = (
        T_95.get(len(pairs), 1.96) * statistics.stdev(pairs) / math.sqrt(len(pairs))
        if len(pairs) > 1
        else math.inf
    )
    ahead = mean >= 0 or (mean + spread >= 0 and ours["snr_db"] > best["snr_db"])
    return {
        "scheme": scheme,
        "effort": effort,
        "best_peer": f"{best['tool']} {best['recipe']}",
        "difference_pp": 100 * mean,
        "interval_pp": None
        if math.isinf(spread)
        else [100 * (mean - spread), 100 * (mean + spread)],
        "snr_difference_db": ours["snr_db"] - best["snr_db"],
        "size_ratio": ours["size_bytes"] / best["size_bytes"],
        "seconds_ratio": ours["seconds"] / best["seconds"],
        "counts": ours["macs_share"] >= MACS_SHARE_MIN
        and ours["size_bytes"] <= 1.05 * best["size_bytes"],
        "at_least_equal": ahead,
    }


def _print(model: Model, found: dict[str, Any]) -> None:
    print(
        f"\n{model.name}: float accuracy {found['float_accuracy']:.2%},"
        f" {found['test_samples']} test samples"
    )
    print(
        f"{'tool':8} {'recipe':21} {'scheme':15} {'acc %':>6} {'agree % (sd)':>14}"
        f" {'SNR dB':>7} {'bytes':>9} {'int8 MACs':>9} {'s':>6} {'peak MB':>8}"
    )
    for row in sorted(found["rows"], key=lambda r: (r["scheme"], -r["agreement"])):
        agreement = f"{100 * row['agreement']:.2f} ({100 * row['agreement_sd']:.2f})"
        print(
            f"{row['tool']:8} {row['recipe']:21} {row['scheme']:15}"
            f" {100 * row['accuracy']:6.2f} {agreement:>14} {row['snr_db']:7.2f}"
            f" {row['size_bytes']:9.0f} {row['macs_share']:9.3f} {row['seconds']:6.2f}"
            f" {row['peak_mb']:8.0f}"
        )
    for verdict in found["verdicts"]:
        if verdict["best_peer"] is None:
            continue
        interval = verdict["interval_pp"]
        shown = "" if interval is None else f" [{interval[0]:+.2f}, {interval[1]:+.2f}]"
        word = "at least equal" if verdict["at_least_equal"] else "BEHIND"
        print(
            f"  {verdict['scheme']} {verdict['effort']} against {verdict['best_peer']}: {word},"
            f" {verdict['difference_pp']:+.2f} pp{shown},"
            f" {verdict['snr_difference_db']:+.1f} dB, size x{verdict['size_ratio']:.2f},"
            f" time x{verdict['seconds_ratio']:.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
