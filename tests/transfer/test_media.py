"""Devices that no network reaches: a stick goes out with a version and comes back with receipts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge_contract.errors import ContractError
from edge_contract.media import MediaSet
from edge_contract.receipt import SignedMessage
from examples.digits.frames import write_frames
from fleet.errors import FleetError
from fleet.transfer import usb
from tests.agent.bundles import digits_bundle
from tests.agent.conftest import Bench
from tests.manager.conftest import FleetUnderTest
from tests.manager.simulated_device import FLEET, wait_until

ROOT = Path(__file__).parents[2]
EDGE_FLEET = [sys.executable, "-c", "from fleet.cli import main; main(prog_name='edge-fleet')"]


@pytest.fixture
def offline_bench(fleet: FleetUnderTest, tmp_path: Path) -> Iterator[Bench]:
    """An agent that the fleet has met once, and that has no network since."""
    home = tmp_path / "device"
    home.mkdir()
    bench = Bench(home, fleet.repository)
    (home / "root.json").write_bytes(fleet.repository.root_bytes())
    write_frames(home / "frames", count=60, seed=1)
    bench.configure(f'[mqtt]\nhost = "127.0.0.1"\nport = {fleet.port}\n', fleet=FLEET)
    process = bench.start()
    wait_until(lambda: [v for v in fleet.service.devices() if v.device == "cam-1"], 20)
    bench.stop(process)
    bench.configure(fleet=FLEET)
    bench.start()
    bench.wait("the agent answers", bench.status)
    yield bench
    for process in bench.processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def publish(fleet: FleetUnderTest, version: str) -> str:
    path = fleet.directory / version / "bundle"
    digits_bundle(path, version)
    digest = fleet.repository.publish(path).digest
    fleet.published(version)
    return digest


def export(fleet: FleetUnderTest, stick: Path, *words: str) -> subprocess.CompletedProcess[str]:
    stick.mkdir(exist_ok=True)
    command = [*EDGE_FLEET, "export", "--usb", str(stick), "--state", fleet.directory / "state"]
    return subprocess.run(
        [*command, *words, "--trial-s", "1", "--frames-min", "20"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def messages(stick: Path) -> list[SignedMessage]:
    return [message for receipt in usb.read_receipts(stick) for message in receipt.messages]


def test_a_stick_installs_a_version_and_brings_back_receipts_that_count_once(
    fleet: FleetUnderTest, offline_bench: Bench, tmp_path: Path
) -> None:
    digest = publish(fleet, "1.0.0")
    stick = tmp_path / "stick"
    done = export(fleet, stick, "digits", "1.0.0", "--devices", "cam-1", "--json")
    assert done.returncode == 0, done.stderr
    medium = Path(json.loads(done.stdout)["medium"])
    again = export(fleet, stick, "digits", "1.0.0", "--devices", "cam-1")
    assert again.returncode != 0
    assert "exists already" in again.stderr

    applied = offline_bench.agent("apply", stick, "--config", offline_bench.config, "--json")
    assert applied.returncode == 0, applied.stderr
    assert offline_bench.status()["active_digest"] == digest
    replay = offline_bench.agent("apply", stick, "--config", offline_bench.config)
    assert replay.returncode != 0
    assert "replay" in replay.stderr

    # Forged and changed messages count for nothing.
    (view,) = fleet.service.devices()
    genuine = messages(medium)
    forged = [
        msgspec.structs.replace(m, payload=m.payload.replace(b"1.0.0", b"9.9.9")) for m in genuine
    ]
    taken = fleet.service.import_receipts(forged)
    assert (taken.new_count, taken.refused_count) == (0, len(genuine))

    first = fleet.service.import_receipts(genuine)
    assert first.new_count == len(genuine) - 1, "all steps; the last message is the state"
    assert first.refused_count == 0
    second = fleet.service.import_receipts(genuine)
    assert (second.new_count, second.known_count) == (0, first.new_count)
    (view,) = fleet.service.devices()
    assert view.digest == digest
    assert view.state != "online", "told of is not met"


def test_a_stick_for_others_is_refused_and_what_runs_stays(
    fleet: FleetUnderTest, offline_bench: Bench, tmp_path: Path
) -> None:
    publish(fleet, "1.0.0")
    fleet.enrolled("cam-9")
    stick = tmp_path / "stick"
    assert export(fleet, stick, "digits", "1.0.0", "--devices", "cam-9").returncode == 0
    refused = offline_bench.agent("apply", stick, "--config", offline_bench.config)
    assert refused.returncode != 0
    assert "not in the medium's set" in refused.stderr.replace("\n", " ")
    assert not offline_bench.status()["active_digest"]
    unknown = export(fleet, tmp_path / "s2", "digits", "1.0.0", "--devices", "nobody")
    assert unknown.returncode == 3
    assert not list((tmp_path / "s2").iterdir())

    # A stick that loses a file on the way is one error, and costs no sequence.
    good = tmp_path / "good"
    assert export(fleet, good, "digits", "1.0.0", "--devices", "cam-1").returncode == 0
    blobs = good / "wherry-digits-1.0.0" / "bundle" / "blobs" / "sha256"
    largest = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
    kept = largest.read_bytes()
    largest.unlink()
    cut = offline_bench.agent("apply", good, "--config", offline_bench.config)
    assert cut.returncode != 0
    largest.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert offline_bench.agent("apply", good, "--config", offline_bench.config).returncode != 0
    largest.write_bytes(kept)
    applied = offline_bench.agent("apply", good, "--config", offline_bench.config)
    assert applied.returncode == 0, applied.stderr


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "full"),
        (errno.EIO, "pulled out"),
        (errno.ENODEV, "pulled out"),
    ],
)
def test_what_a_stick_does_while_it_is_written_is_one_error_and_leaves_nothing(
    code: int, words: str, fleet: FleetUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = fleet.publish("1.0.0", weights=os.urandom(5000))
    stick = tmp_path / "stick"
    stick.mkdir()
    manifest_bytes = fleet.repository.blob_path(digest).read_bytes()

    def media() -> MediaSet:
        raise AssertionError("a sequence is spent only when the bundle is on the medium")

    copies = iter(range(2))
    real = shutil.copyfile

    def copy(source: Path, target: Path) -> None:
        if next(copies, None) is None:
            raise OSError(code, os.strerror(code))
        real(source, target)

    monkeypatch.setattr(shutil, "copyfile", copy)
    with pytest.raises(FleetError, match=words):
        usb.write_medium(
            stick / "medium",
            media=media,
            manifest_bytes=manifest_bytes,
            manifest=fleet.repository.manifest(digest),
            version="1.0.0",
            blob_path=fleet.repository.blob_path,
        )
    assert not list(stick.iterdir())


def test_receipts_that_are_no_receipts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="no receipts"):
        usb.read_receipts(tmp_path)
    with pytest.raises(FleetError, match="pulled out"):
        usb.read_receipts(tmp_path / "gone")
    (tmp_path / "receipts").mkdir()
    (tmp_path / "receipts" / "x.json").write_text('{"device":"x","messages":[]}')
    with pytest.raises(ContractError, match="0 messages"):
        usb.read_receipts(tmp_path)
