"""wherry's int8 beside the static full-int8 recipes of other tools, in one table.

    python benchmarks/quantize.py --data DIR [--json] [--draws 5] [--peers ort,nncf,ai-edge]
        [--evidence DIR]

``DIR`` holds a folder a model, ``<name>/`` with ``<name>_float.onnx``, ``calibration.npz`` (x),
``test.npz`` (x, y) and, for ai-edge-quantizer, ``<name>_float.tflite``. Each draw takes calibration
samples anew; every tool gets the same ones. ONNX files are run and audited with the very flags that
the agent uses, .tflite files in ai-edge-litert. Peers other than onnxruntime live in environments
of their own, which this program makes under a cache directory and fills by name and version.
Finished rows lie there, too, under a digest of everything that they depend on: a run that was
interrupted goes on where it stopped. The exit code says whether the bar of ``quantize_table.py``
holds: 0 where it does, 1 where it does not, 2 where nothing could be measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
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

from quantize_table import Figures, Row, markdown, summarise, table_lines  # noqa: E402

from compiler.graph.floatgraph import FloatGraph, normalise  # noqa: E402
from compiler.graph.layers import Layer, list_layers  # noqa: E402
from compiler.graph.source import load_source  # noqa: E402
from compiler.plan.fidelity import (  # noqa: E402
    logit_snr_db,
    logits_from_scores,
    tails_of,
)
from compiler.proof.audit import audit  # noqa: E402
from edge_runtime.onnx_session import session_options  # noqa: E402

PEERS = {
    "ort": (),
    "nncf": ("nncf==3.4.0", "onnx", "onnxruntime"),
    "ai-edge": ("ai-edge-quantizer==0.10.0", "ai-edge-litert==2.3.0"),
}
"""Peer -> what its environment is filled with; onnxruntime is in ours."""

SCORE_STEP = 1 / 256
EFFORTS = ("fast", "normal", "thorough")


@dataclass(frozen=True)
class Recipe:
    """One row of the table.

    schemes: that it is a peer for: ``s8s8`` (ARM) or ``s8s8-symmetric`` (Jetson).
    """

    tool: str
    name: str
    worker: str
    schemes: tuple[str, ...]


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
    """Run it; 0 where the bar holds, 1 where it does not, 2 where the data are not there."""
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
    efforts = [name for name in options.efforts.split(",") if name]
    unknown = sorted(set(efforts) - set(EFFORTS))
    if unknown or not efforts:
        print(f"--efforts: expected some of {', '.join(EFFORTS)}", file=sys.stderr)
        return 2
    pythons = {name: _environment(options.cache, name) for name in peers}
    pythons["wherry"] = sys.executable
    report: dict[str, Any] = {"draws": options.draws, "machine": _machine(), "models": {}}
    with tempfile.TemporaryDirectory(prefix="wherry-bench-") as scratch:
        for folder in folders:
            model = _load(folder, Path(scratch), options.test_samples)
            finished = options.cache / "rows"
            rows = _measure(model, pythons, efforts, options.draws, Path(scratch), finished)
            report["models"][model.name] = summarise(
                rows, efforts, float((model.scores.argmax(1) == model.y).mean()), len(model.x)
            )
    criteria = [one for found in report["models"].values() for one in found["criteria"]]
    report["holds"] = bool(criteria) and all(one["holds"] for one in criteria)
    lines = [line for name, one in report["models"].items() for line in table_lines(name, one)]
    # With --json the tables go beside it, so that whoever waits can read them.
    print("\n".join(lines), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(report, indent=2))
    if options.evidence:
        options.evidence.mkdir(parents=True, exist_ok=True)
        (options.evidence / "quantize.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.evidence / "quantize.md").write_text(markdown(report))
    return 0 if report["holds"] else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wherry-bench"
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder a model")
    parser.add_argument("--models", default="", help="names, separated by commas; default: all")
    parser.add_argument("--draws", type=int, default=5, help="calibration draws")
    parser.add_argument("--peers", default="ort,nncf,ai-edge", help="tools, separated by commas")
    parser.add_argument("--efforts", default=",".join(EFFORTS), help="of wherry's search")
    parser.add_argument("--test-samples", type=int, default=2000, help="at most so many")
    parser.add_argument("--cache", type=Path, default=cache, help="peers' venvs, finished rows")
    parser.add_argument("--evidence", type=Path, help="write quantize.md and .json there, too")
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
    model: Model,
    pythons: dict[str, str],
    efforts: list[str],
    draws: int,
    scratch: Path,
    finished: Path,
) -> dict[Row, list[Figures]]:
    rows: dict[Row, list[Figures]] = {}
    finished.mkdir(parents=True, exist_ok=True)
    test = scratch / f"{model.name}_test.npz"
    np.savez(test, x=model.x)
    plan = [
        (scheme, recipe)
        for scheme, recipe in _plan_of(pythons, efforts)
        if recipe.tool != "ai-edge" or model.tflite is not None
    ]
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(model.calibration))
        chosen = model.calibration[order[: min(256, round(0.8 * len(order)))]]
        samples = scratch / f"{model.name}_{draw}.npz"
        np.savez(samples, x=chosen)
        for place, (scheme, recipe) in enumerate(plan):
            begin = time.perf_counter()
            suffix = "tflite" if recipe.tool == "ai-edge" else "onnx"
            out = scratch / f"out.{suffix}"
            source = model.tflite if recipe.tool == "ai-edge" else model.onnx
            assert source is not None
            job = {
                "model": str(source),
                "samples": str(samples),
                "input": model.graph.input_name,
                "recipe": recipe.name,
                "scheme": scheme,
                "out": str(out),
            }
            row = finished / f"{_key(model, source, chosen, recipe, scheme)}.json"
            known = row.is_file()
            if known:
                figures = Figures(**json.loads(row.read_text()))
            else:
                answer = _run(pythons[recipe.tool], recipe.worker, job)
                if answer is None:
                    continue
                figures = _figures(model, out, test, pythons, answer)
                part = row.with_suffix(".part")
                part.write_text(json.dumps(asdict(figures)))
                part.replace(row)
            rows.setdefault(Row(recipe.tool, recipe.name, scheme), []).append(figures)
            print(
                f"{model.name} draw {draw + 1}/{draws}, {place + 1}/{len(plan)}: {recipe.tool}"
                f" {recipe.name} {scheme}: agreement {figures.agreement:.2%},"
                f" {figures.snr_db:.1f} dB, {figures.seconds:.1f} s"
                f" ({'known' if known else f'took {time.perf_counter() - begin:.0f} s'})",
                file=sys.stderr,
                flush=True,
            )
    return rows


def _key(model: Model, source: Path, chosen: np.ndarray, recipe: Recipe, scheme: str) -> str:
    """A digest of everything that a row depends on."""
    found = hashlib.sha256(repr((recipe, scheme, PEERS.get(recipe.tool))).encode())
    found.update(f"{ort.__version__} {np.__version__} {_machine()}".encode())
    found.update(source.read_bytes())
    for array in (chosen, model.x, model.y):
        found.update(np.ascontiguousarray(array).tobytes())
    root = HERE.parent
    code = [
        HERE / "peers" / recipe.worker,
        HERE / "peers" / "job.py",
        root / "compiler/proof/audit.py",
    ]
    code += sorted((root / "edge_runtime").rglob("*.py"))
    if recipe.tool == "wherry":
        code += sorted((root / "compiler").rglob("*.py"))
    for path in code:
        found.update(path.read_bytes())
    return found.hexdigest()


def _machine() -> str:
    """The machine and what it runs, in words."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return (
        f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()},"
        f" Python {platform.python_version()}, onnxruntime {ort.__version__},"
        f" numpy {np.__version__}"
    )


def _plan_of(pythons: dict[str, str], efforts: list[str]) -> Iterator[tuple[str, Recipe]]:
    both = ("s8s8", "s8s8-symmetric")
    ours = [Recipe("wherry", effort, "wherry_plan.py", both) for effort in efforts]
    for recipe in (*ours, *RECIPES):
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


if __name__ == "__main__":
    sys.exit(main())
