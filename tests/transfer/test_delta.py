"""Deltas: what is made gives the blob back, and what is damaged never does harm."""

from __future__ import annotations

import bz2
import contextlib
import errno
import io
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.transfer.delta import rebuild_blob
from edge_contract.delta import (
    CODERS,
    HEADER_BYTES,
    DeltaHeader,
    Segment,
    add_bytes,
    apply_delta,
    encode_header,
    encode_residual,
    encode_segments,
    subtract_bytes,
)
from edge_contract.digest import digest_of
from edge_contract.errors import ContractError, TrustError
from edge_contract.manifest import WEIGHT, Descriptor
from fleet.transfer.delta_coders import (
    bsdiff_delta,
    make_deltas,
    smallest_delta,
    subtract_delta,
    zstd_delta,
)

MAKERS = {"subtract": subtract_delta, "bsdiff": bsdiff_delta, "zstd": zstd_delta}
ROOT = Path(__file__).parents[2]


def weights(seed: int, size_bytes: int = 60_000) -> bytes:
    dice = random.Random(seed)
    return bytes(int(dice.gauss(0, 25)) % 256 for _ in range(size_bytes))


def retrained(base: bytes, share: float, seed: int = 5) -> bytes:
    dice = random.Random(seed)
    steps = [dice.choice((-2, -1, -1, 1, 1, 2)) if dice.random() < share else 0 for _ in base]
    return bytes((byte + step) % 256 for byte, step in zip(base, steps, strict=True))


def applied(delta: bytes, base: bytes, target_bytes: int) -> bytes:
    chunks = apply_delta(
        io.BytesIO(delta), io.BytesIO(base), target_bytes=target_bytes, base_bytes=len(base)
    )
    return b"".join(chunks)


BASE = weights(1)
TARGET = retrained(BASE, 0.3)


@given(st.binary(max_size=300), st.data())
def test_subtracting_and_adding_are_inverse(left: bytes, data: st.DataObject) -> None:
    right = data.draw(st.binary(min_size=len(left), max_size=len(left)))
    gone = subtract_bytes(left, right)
    assert gone == bytes((a - b) % 256 for a, b in zip(left, right, strict=True))
    assert add_bytes(gone, right) == left


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000), st.binary(max_size=2000), st.integers(0, 3000))
def test_every_coder_gives_the_target_back(base: bytes, extra: bytes, at: int) -> None:
    target = base[:at] + extra + base[at:]
    for candidate in make_deltas(base, target):
        assert applied(candidate.data, base, len(target)) == target


def test_the_bytes_of_a_subtract_delta_are_these() -> None:
    # The test vector of the format: both sides read and write it.
    body = encode_residual(encode_segments([Segment(5, 1)]), b"\x01\xff\x00\x64\x80", bytes)
    assert (
        body.hex()
        == (
            "1700000000000000"  # the first stream has 23 bytes: one segment, three packed bytes
            "01000000" + "0500000000000000" + "0100000000000000" + "68f77f"
            "6480"  # what did not fit into four bits
        )
    )


@pytest.mark.parametrize("shift", [b"", b"a new name in the header"])
def test_retrained_weights_take_a_fifth_even_when_they_have_moved(shift: bytes) -> None:
    target = shift + TARGET
    best = smallest_delta(BASE, target)
    assert best.coder == "subtract"
    assert len(best.data) < 0.2 * len(target)


@pytest.mark.parametrize("coder", CODERS)
def test_bit_errors_never_pass(coder: str, tmp_path: Path) -> None:
    base, target = BASE[:8000], TARGET[:8000]
    delta = MAKERS[coder](base, target)
    dice = random.Random(3)
    for _ in range(80):
        damaged = bytearray(delta)
        damaged[dice.randrange(len(delta))] ^= 1 << dice.randrange(8)
        with pytest.raises(ContractError):
            rebuild(tmp_path, bytes(damaged), base, target)
    assert not (tmp_path / "target").exists()
    assert rebuild(tmp_path, delta, base, target) == target


@pytest.mark.parametrize("coder", CODERS)
def test_truncated_deltas_are_refused(coder: str, tmp_path: Path) -> None:
    base, target = BASE[:8000], TARGET[:8000]
    delta = MAKERS[coder](base, target)
    # The last bytes may close a stream that is empty: then nothing is missing.
    for length in (0, 3, 23, 24, 31, len(delta) // 2, len(delta) - 20):
        with pytest.raises(ContractError):
            rebuild(tmp_path, delta[:length], base, target)
    assert {path.name for path in tmp_path.iterdir()} == {"delta", "base"}


@pytest.mark.parametrize("coder", CODERS)
def test_lengths_beyond_any_file_are_damage_or_harmless(coder: str) -> None:
    base, target = BASE[:8000], TARGET[:8000]
    delta = MAKERS[coder](base, target)
    for at in range(HEADER_BYTES, HEADER_BYTES + 40, 8):
        for length in (2**40, 2**62, 2**63 - 1, 2**64 - 1):
            lying = delta[:at] + struct.pack("<Q", length) + delta[at + 8 :]
            with contextlib.suppress(ContractError):
                assert applied(lying, base, len(target)) == target


@pytest.mark.parametrize("coder", CODERS)
def test_another_base_gives_an_error_and_no_blob(coder: str, tmp_path: Path) -> None:
    delta = MAKERS[coder](BASE, TARGET)
    with pytest.raises(ContractError):
        rebuild(tmp_path, delta, weights(99), TARGET)
    with pytest.raises(ContractError, match="expected one from"):
        rebuild(tmp_path, delta, BASE[:-1], TARGET)


def test_a_bomb_ends_at_the_size_that_was_signed(tmp_path: Path) -> None:
    """A gigabyte in a kilobyte, three times: each stops at the byte after the announced length."""
    huge = zstandard.ZstdCompressor(level=3).compress(bytes(1 << 28))
    segments = encode_segments([Segment(1000, None)])
    packed = zstandard.ZstdCompressor().compress(segments + bytes(1 << 24))
    bombs = {
        "zstd": huge,
        "subtract": len(packed).to_bytes(8, "little") + packed + huge,
        "bsdiff": bsdiff_bomb(),
    }
    for coder, body in bombs.items():
        bomb = encode_header(DeltaHeader(coder, 1000, len(BASE))) + body
        with pytest.raises(ContractError):
            rebuild(tmp_path, bomb, BASE, TARGET[:1000])
    lying = encode_header(DeltaHeader("zstd", 1 << 40, len(BASE))) + huge
    with pytest.raises(ContractError, match="expected one from"):
        rebuild(tmp_path, lying, BASE, TARGET[:1000])


def bsdiff_bomb() -> bytes:
    """Endless entries that make nothing."""
    control = bz2.compress(bytes(24) * 200_000)
    head = b"BSDIFF40" + struct.pack("<QQQ", len(control), 14, 1000)
    return head + control + bz2.compress(b"") + bz2.compress(bytes(1 << 24))


def test_a_window_that_is_too_large_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = stream.compress(TARGET) + stream.flush()
    delta = encode_header(DeltaHeader("zstd", len(TARGET), len(BASE))) + body
    with pytest.raises(ContractError, match="damaged"):
        rebuild(tmp_path, delta, BASE, TARGET)


def test_a_full_disk_at_every_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = BASE * 5  # several chunks
    target = TARGET * 5
    delta = subtract_delta(base, target)
    for allowed in range(5):
        writes = iter(range(allowed))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", failing_open(writes))
            with pytest.raises(OSError, match="No space left"):
                rebuild(tmp_path, delta, base, target)
        assert {path.name for path in tmp_path.iterdir()} == {"delta", "base"}
    assert rebuild(tmp_path, delta, base, target) == target


def failing_open(writes: object) -> object:
    real = Path.open

    class Full:
        def __init__(self, file: io.BufferedWriter) -> None:
            self._file = file

        def write(self, data: bytes) -> int:
            if next(writes, None) is None:  # type: ignore[call-overload]
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(data)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

    def opened(path: Path, mode: str = "r", *rest: object) -> object:
        file = real(path, mode, *rest)  # type: ignore[arg-type]
        return Full(file) if mode == "xb" else file  # type: ignore[arg-type]

    return opened


def test_the_wrong_result_is_refused_by_its_digest(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="its result is"):
        rebuild(tmp_path, subtract_delta(BASE, TARGET), BASE, retrained(BASE, 0.3, seed=6))


@pytest.mark.parametrize("coder", CODERS)
def test_applying_stays_below_64_mb(coder: str, tmp_path: Path) -> None:
    base = random.Random(2).randbytes(5_000_000)
    target = base[:2_000_000] + b"in between" + base[2_000_000:]
    (tmp_path / "delta").write_bytes(MAKERS[coder](base, target))
    (tmp_path / "base").write_bytes(base)
    code = (
        "import re, sys; from pathlib import Path;"
        "from edge_agent.transfer.delta import rebuild_blob;"
        "from edge_contract.manifest import Descriptor;"
        "d = Path(sys.argv[1]);"
        "w = Descriptor(media_type='x', digest=sys.argv[2], size=int(sys.argv[3]));"
        "rebuild_blob(d / 'delta', d / 'base', d / 'target', w);"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, digest_of(target), str(len(target))],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert int(done.stdout) * 1024 <= 64e6


def rebuild(directory: Path, delta: bytes, base: bytes, target: bytes) -> bytes:
    (directory / "delta").write_bytes(delta)
    (directory / "base").write_bytes(base)
    wanted = Descriptor(media_type=WEIGHT, digest=digest_of(target), size=len(target))
    made = directory / "target"
    rebuild_blob(directory / "delta", directory / "base", made, wanted)
    data = made.read_bytes()
    made.unlink()
    return data
