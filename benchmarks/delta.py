"""Deltas between digits models that were really fine-tuned, beside bsdiff4 and zstd's patch-from.

    python benchmarks/delta.py [--json]

The float models of ``examples/digits/wide.py`` become u8s8 files in three ways: by one plan without
a search (ranges by min-max), by the search of ``edge-compile build``, and by that search with
``--previous``. Deltas are made by every coder, and the smallest is applied in a process of its own
whose memory is read from the kernel. Exits 1 where a criterion fails; the search without
``--previous`` is shown beside, and judged by none.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from compiler.build import build  # noqa: E402
from compiler.calibrate.ranges import collect_stats  # noqa: E402
from compiler.emit.onnx_qdq import emit_onnx  # noqa: E402
from compiler.graph.floatgraph import normalise  # noqa: E402
from compiler.graph.source import load_source  # noqa: E402
from compiler.metrics.measure import Limits  # noqa: E402
from compiler.options import BuildOptions  # noqa: E402
from compiler.plan.draft import draft_plan  # noqa: E402
from compiler.plan.structure import survey  # noqa: E402
from edge_contract.delta import apply_delta  # noqa: E402
from edge_contract.digest import digest_of  # noqa: E402
from edge_contract.layout import BundleDir  # noqa: E402
from examples.digits.make_data import write_splits  # noqa: E402
from examples.digits.render import render_frames, sources_of  # noqa: E402
from examples.digits.wide import wide_models  # noqa: E402
from fleet.transfer.delta_coders import make_deltas  # noqa: E402

LIMITS = {"tuned": 0.20, "last": 0.04}
"""Version -> the share of the full size that its delta may take."""
CHANGED_AIM = 0.30
MEMORY_MAX_BYTES = 64e6
_APPLY = """
import re, sys
from pathlib import Path
from edge_agent.transfer.delta import rebuild_blob
from edge_contract.manifest import Descriptor
delta, base, target = map(Path, sys.argv[1:4])
wanted = Descriptor(media_type="weights", digest=sys.argv[4], size=int(sys.argv[5]))
rebuild_blob(delta, base, target, wanted)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@dataclass(frozen=True)
class Row:
    """One version against the base.

    how: ``plan`` without a search, ``search`` of the build, or ``previous``.
    share: of the full size, by coder.
    snr_db: of the logits on the selection data; 0 where nothing was searched.
    """

    how: str
    version: str
    full_bytes: int
    changed_share: float
    share: dict[str, float]
    best: str
    apply_ms: float
    apply_memory_bytes: int
    snr_db: float


def quantised(model: onnx.ModelProto, frames: np.ndarray, directory: Path) -> bytes:
    """The int8 ONNX of a float model, by the compiler's planner and emitter."""
    path = directory / "float.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    graph = normalise(load_source(path))
    batches = [frames[at : at + 1] for at in range(len(frames))]
    ranges = {
        name: s.central(1.0) for name, s in collect_stats(graph, lambda: iter(batches)).items()
    }
    plan = draft_plan(graph.prepared, survey(graph.prepared), ranges, "asymmetric")
    return emit_onnx(plan, "u8s8")


def built(model: onnx.ModelProto, directory: Path, previous: Path | None) -> tuple[bytes, float]:
    """The int8 ONNX that ``edge-compile build`` makes, in ``directory``, and its SNR in dB."""
    directory.mkdir()
    path = directory / "float.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    data = directory.parent / "data"
    report = build(
        BuildOptions(
            model=path,
            name="digits",
            version="1.0.0",
            targets=("generic-x86-64",),
            calibration=data / "calibration.npz",
            selection=data / "selection.npz",
            test=data / "test.npz",
            preprocess=HERE.parent / "examples" / "digits" / "preprocess.toml",
            limits=Limits(max_drop_pp=3.0),
            previous=previous,
            out=directory / "out",
        ),
        clock=time.monotonic,
    )
    if report.verdict != "pass":
        raise SystemExit(f"{directory.name}: the gate says {report.verdict}: {report.reason}")
    (target,) = report.targets
    file = BundleDir(directory / "out" / "bundle").read_file("onnx-u8s8/model.onnx")
    return file, target.candidates[0].snr_db


def changed_share(base: bytes, target: bytes) -> float:
    """The share of int8 weights that differ."""
    old, new = (
        {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
        for model in (onnx.load_from_string(base), onnx.load_from_string(target))
    )
    weights = [name for name, value in old.items() if value.dtype == np.int8 and value.ndim > 1]
    changed = sum(int((old[name] != new[name]).sum()) for name in weights)
    return changed / sum(old[name].size for name in weights)


def measure(
    how: str, version: str, base: bytes, target: bytes, directory: Path, snr_db: float
) -> Row:
    """All coders on one pair, and the smallest applied aside."""
    deltas = make_deltas(base, target)
    for candidate in deltas:
        begun_s = time.perf_counter()
        made = b"".join(
            apply_delta(
                io.BytesIO(candidate.data),
                io.BytesIO(base),
                target_bytes=len(target),
                base_bytes=len(base),
            )
        )
        lasted_ms = 1e3 * (time.perf_counter() - begun_s)
        if made != target:
            raise SystemExit(f"{version}: {candidate.coder} gives another blob back")
        if candidate is deltas[0]:
            apply_ms = lasted_ms
    for name, data in (("delta", deltas[0].data), ("base", base)):
        (directory / name).write_bytes(data)
    made_at = directory / "target"
    done = subprocess.run(
        [
            *(sys.executable, "-c", _APPLY, directory / "delta", directory / "base", made_at),
            *(digest_of(target), str(len(target))),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=HERE.parent,
    )
    return Row(
        how=how,
        version=version,
        full_bytes=len(target),
        changed_share=changed_share(base, target),
        share={candidate.coder: len(candidate.data) / len(target) for candidate in deltas},
        best=deltas[0].coder,
        apply_ms=apply_ms,
        apply_memory_bytes=int(done.stdout) * 1024,
        snr_db=snr_db,
    )


def run(*, searched: bool = True) -> list[Row]:
    """Every pair; the searched ones take most of a minute."""
    frames = render_frames(sources_of("calibration"), seed=1)
    inputs = ((frames.astype(np.float32) / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2)
    models = wide_models()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        made = {name: quantised(m, inputs, directory) for name, m in models.items()}
        rows = [measure("plan", name, made["base"], made[name], directory, 0.0) for name in LIMITS]
        if not searched:
            return rows
        write_splits(directory / "data")
        base, _ = built(models["base"], directory / "before", None)
        for how, previous in (("search", None), ("previous", directory / "before" / "out")):
            for name in LIMITS:
                file, snr_db = built(models[name], directory / f"{how}-{name}", previous)
                rows.append(measure(how, name, base, file, directory, snr_db))
        return rows


def criteria(rows: list[Row]) -> dict[str, bool]:
    """What must hold, in words."""
    found = {}
    for row in rows:
        if row.how == "search":
            continue
        what, limit, share = f"{row.how}, {row.version}", LIMITS[row.version], row.share[row.best]
        found[f"{what}: {share:.1%} of full size, at most {limit:.0%}"] = share <= limit
        memory = row.apply_memory_bytes / 1e6
        found[f"{what}: applied within {memory:.0f} MB, at most 64"] = memory <= 64
        peers = min(share for coder, share in row.share.items() if coder != "subtract")
        found[f"{what}: no larger than the best peer's {peers:.1%}"] = share <= peers
    aim = rows[0].changed_share
    found[f"plan, tuned: {aim:.1%} of the int8 weights changed, about {CHANGED_AIM:.0%}"] = (
        abs(aim - CHANGED_AIM) <= 0.03
    )
    return found


def main() -> int:
    """Print a table and the criteria; 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = run()
    checks = criteria(rows)
    if arguments.json:
        value: dict[str, Any] = {"rows": [asdict(row) for row in rows], "criteria": checks}
        print(json.dumps(value, indent=2))
    else:
        print(
            "how      version  full KB  int8 changed  subtract  bsdiff4  zstd patch-from"
            "  apply ms  MB  logits dB"
        )
        for row in rows:
            print(
                f"{row.how:<8} {row.version:<7} {row.full_bytes / 1e3:8.1f}"
                f" {row.changed_share:13.1%} {row.share['subtract']:9.1%}"
                f" {row.share['bsdiff']:8.1%} {row.share['zstd']:16.1%} {row.apply_ms:9.1f}"
                f" {row.apply_memory_bytes / 1e6:3.0f}"
                + (f" {row.snr_db:10.1f}" if row.snr_db else "")
            )
        for text, held in checks.items():
            print(f"{'ok  ' if held else 'FAIL'}  {text}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
