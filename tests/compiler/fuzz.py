"""Damage valid model and data files at random and feed them to the readers of the compiler.

``python -m tests.compiler.fuzz --seconds 300`` (or ``make fuzz``) runs until time is up. Only a
``WherryError`` may come out, within the time and memory stated below. Each case follows from the
seed and its number alone: ``--seed S --only N`` runs one again, and the file is kept.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np

from compiler.datasets.load import load_dataset
from compiler.graph.describe import read_facts
from compiler.graph.floatgraph import normalise
from compiler.graph.source import load_source
from edge_contract.errors import WherryError
from tests.compiler.models import frames, matmul_model, small_cnn
from tests.tflite.networks import NETWORKS

CASE_LIMIT_S = 20
"""A reader that takes longer hangs: the largest valid file here takes a tenth of a second."""

ROOM_BYTES = 1 << 30
"""Address space beyond what imports took; the largest file here has 200 kB."""

ERROR_LIMIT_CHARS = 4_000
INPUT_LIMIT_BYTES = 1 << 20

_WORDS = (
    0,
    1,
    2,
    8,
    127,
    128,
    255,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)


def corpus() -> dict[str, bytes]:
    """Valid files by name; the suffix says which reader takes them."""
    x, y = frames(6, 1)
    found = {
        "cnn.onnx": small_cnn().SerializeToString(),
        "dense.onnx": matmul_model().SerializeToString(),
    }
    for name in ("mobilenet_v2", "ssd_heads", "resnet"):
        found[f"{name}.tflite"] = NETWORKS[name]()
    for name, save in (("x.npz", np.savez), ("packed.npz", np.savez_compressed)):
        packed = BytesIO()
        save(packed, x=x, y=y)
        found[name] = packed.getvalue()
    plain = BytesIO()
    np.save(plain, x)
    found["x.npy"] = plain.getvalue()
    found["x.csv"] = b"a,b,y\n" + b"".join(b"%d,%d.5,%d\n" % (i, i, i % 3) for i in range(40))
    return found


def damage(source: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One to four changes: bits, bytes, lengths; sections cut, repeated, moved, from elsewhere."""
    found = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 3, 4))):
        place = source.randrange(len(found)) if found else 0
        # Headers and tables lie at the ends and decide more than weights do.
        if source.random() < 0.4:
            place = min(place, source.randrange(512)) if source.random() < 0.5 else place
        length = min(source.choice((1, 4, 16, 200, 4000)), len(found))
        kind = source.randrange(9)
        if kind == 0 and found:
            found[place] ^= 1 << source.randrange(8)
        elif kind == 1 and found:
            found[place] = source.randrange(256)
        elif kind == 2:
            width = source.choice((1, 2, 4, 8))
            word = source.choice(_WORDS) & (2 ** (8 * width) - 1)
            found[place : place + width] = word.to_bytes(width, "little")
        elif kind == 3:
            found[place : place + 1] = varint(source.choice(_WORDS))
        elif kind == 4:
            del found[place:]
        elif kind == 5:
            del found[place : place + length]
        elif kind == 6:
            section = found[place : place + length] * source.choice((1, 2, 50))
            found[place:place] = section[:INPUT_LIMIT_BYTES]
        elif kind == 7:
            start = source.randrange(len(found) + 1)
            found[start : start + length] = found[place : place + length]
        else:
            other = source.choice(others)
            start = source.randrange(len(other))
            found[place : place + length] = other[start : start + length]
    return bytes(found[:INPUT_LIMIT_BYTES])


def varint(value: int) -> bytes:
    """A protobuf number."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def readers(suffix: str, deep: bool) -> list[Callable[[Path], object]]:
    """What reads such a file; ``deep`` goes on to the runtime's own optimiser."""
    if suffix in (".onnx", ".tflite"):
        load = (lambda path: normalise(load_source(path))) if deep else load_source
        return [load, read_facts]
    return [lambda path: load_dataset(path, "test", labels_required=False)]


def run_case(seed: int, number: int, files: dict[str, bytes], path: Path, deep: bool) -> str:
    """Run one case; returns the name of the file that was damaged.

    Raises:
        Exception: whatever comes out that is no ``WherryError``.
    """
    source = random.Random(f"{seed} {number}")
    name = source.choice(sorted(files))
    target = path.with_suffix(Path(name).suffix)
    target.write_bytes(damage(source, files[name], list(files.values())))
    for read in readers(target.suffix, deep):
        said = "a result"
        try:
            read(target)
        except WherryError as error:
            said = str(error)
        assert said.strip(), "an error that says nothing"
        assert len(said) < ERROR_LIMIT_CHARS, f"an error of {len(said)} characters"
    return name


def bound_memory() -> None:
    """Give this process ``ROOM_BYTES`` more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--only", type=int, help="run this case alone")
    parser.add_argument("--deep", action="store_true", help="on to the runtime's optimiser")
    parser.add_argument("--keep", type=Path, help="where a case that failed is left")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="wherry-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    again = f"python -m tests.compiler.fuzz --seed {options.seed}{' --deep' * options.deep} --only"
    print(f"seed {options.seed}", flush=True)
    files = corpus()
    path = folder / "case"
    for name, data in files.items():
        valid = path.with_suffix(Path(name).suffix)
        valid.write_bytes(data)
        readers(valid.suffix, options.deep)[-1](valid)
    bound_memory()
    number = options.only or 0
    begin = time.monotonic()
    while time.monotonic() - begin < options.seconds:
        (folder / "number").write_text(f"{again} {number}\n")
        faulthandler.dump_traceback_later(CASE_LIMIT_S, exit=True)
        try:
            run_case(options.seed, number, files, path, options.deep)
        # Whatever it is, it is what we are looking for.
        except BaseException:
            traceback.print_exc()
            print(f"case {number}: {again} {number}; the file is in {folder}", flush=True)
            return 1
        finally:
            faulthandler.cancel_dump_traceback_later()
        number += 1
        if options.only is not None:
            break
    print(f"{number} cases, no finding", flush=True)
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
