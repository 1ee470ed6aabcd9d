"""Devices that no network reaches: a stick goes out with a version and comes back with receipts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from edge_agent.apply import _write_receipt, receipt_body
from edge_agent.errors import AgentError
from edge_contract.errors import TrustError
from edge_contract.layout import write_durably
from edge_contract.media import MediaSet
from edge_contract.receipt import Receipt, SignedMessage, encode_receipt
from edge_contract.signing import sign_message
from examples.digits.frames import write_frames
from fleet.cli.export import _parts
from fleet.errors import FleetError
from fleet.transfer import usb
from fleet.transfer.media_devices import read_status
from tests.agent.bundles import digits_bundle
from tests.agent.conftest import Bench
from tests.manager.conftest import FleetUnderTest
from tests.manager.simulated_device import FLEET, wait_until

ROOT = Path(__file__).parents[2]
EDGE_FLEET = [sys.executable, "-c", "from fleet.cli import main; main(prog_name='edge-fleet')"]


@pytest.fixture
def was_online() -> bool:
    """Whether the fleet has met the agent once."""
    return True


@pytest.fixture
def offline_bench(fleet: FleetUnderTest, tmp_path: Path, was_online: bool) -> Iterator[Bench]:
    """An agent that has no network, and was online before or never."""
    home = tmp_path / "device"
    home.mkdir()
    bench = Bench(home, fleet.repository)
    (home / "root.json").write_bytes(fleet.repository.root_bytes())
    write_frames(home / "frames", count=60, seed=1)
    if was_online:
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
    found = usb.read_receipts(stick)
    assert found.refused == []
    return [message for receipt in found.receipts for message in receipt.messages]


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


@pytest.mark.parametrize("was_online", [False])
def test_a_stick_reaches_a_device_that_was_never_online_by_what_it_says_of_itself(
    fleet: FleetUnderTest, offline_bench: Bench, tmp_path: Path
) -> None:
    digest = publish(fleet, "1.0.0")
    stick = tmp_path / "stick"
    stick.mkdir()
    said = offline_bench.agent("status", "--config", offline_bench.config, "--json").stdout
    status = stick / "cam-1.json"
    status.write_text(said)

    done = export(fleet, stick, "digits", "1.0.0", "--status", str(status), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["devices"] == ["cam-1"]
    applied = offline_bench.agent("apply", stick, "--config", offline_bench.config)
    assert applied.returncode == 0, applied.stderr
    assert offline_bench.status()["active_digest"] == digest

    # It is not enrolled by that: what it says counts once its key is known.
    receipts = messages(stick)
    taken = fleet.service.import_receipts(receipts)
    assert taken.new_count == 0
    assert taken.refused_count
    assert not fleet.service.devices()


STATUS_OF_CAM_1 = {
    "fleet": FLEET,
    "device": "cam-1",
    "line": "digits",
    "hardware": "generic-x86-64",
    "device_key": "ab" * 32,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fleet": "away"}, "expected 'digits' in 'home'"),
        ({"line": "faces"}, "expected 'digits' in 'home'"),
        ({"device_key": ""}, "has no key"),
        ({"device": "../x"}, "expected 1 to 63"),
        ({"hardware": "A B"}, "hardware"),
    ],
)
def test_a_status_that_fits_no_order_is_refused(
    change: dict[str, str], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "cam-1.json"
    path.write_text(json.dumps(STATUS_OF_CAM_1))
    assert read_status(path, fleet=FLEET, line="digits").device_key == "ab" * 32
    path.write_text(json.dumps({**STATUS_OF_CAM_1, **change}))
    with pytest.raises(FleetError, match=words):
        read_status(path, fleet=FLEET, line="digits")
    path.write_text("device     home/cam-1")
    with pytest.raises(FleetError) as error:
        read_status(path, fleet=FLEET, line="digits")
    assert "edge-agent status --json" in error.value.hint


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
    everyone = export(fleet, tmp_path / "all", "digits", "1.0.0", "--all", "--json")
    assert json.loads(everyone.stdout)["devices"] == ["cam-1", "cam-9"]
    unknown = export(fleet, tmp_path / "s2", "digits", "1.0.0", "--devices", "nobody")
    assert unknown.returncode == 3
    assert "edge-agent status --json" in unknown.stderr
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


STATUS = SignedMessage(topic="edge/v1/home/cam-1/status/update", payload=b"{}", signature="s")


def receipt_file(directory: Path, name: str, *messages: SignedMessage) -> None:
    place = directory / "receipts"
    place.mkdir(exist_ok=True)
    (place / name).write_bytes(encode_receipt(Receipt(device="cam-1", messages=list(messages))))


def test_files_that_are_no_receipts_cost_the_others_nothing(tmp_path: Path) -> None:
    receipt_file(tmp_path, "good.json", STATUS)
    place = tmp_path / "receipts"
    (place / "a-empty.json").write_text('{"device":"x","messages":[]}')
    (place / "b-cut.json").write_bytes((place / "good.json").read_bytes()[:-5])
    (place / "c-huge.json").write_bytes(bytes(3 << 20))
    (place / "d-link.json").symlink_to("/dev/zero")
    os.mkfifo(place / "e-pipe.json")
    (place / "f-directory.json").mkdir()
    found = usb.read_receipts(tmp_path)
    assert [receipt.messages for receipt in found.receipts] == [[STATUS]]
    words = ["0 messages", "b-cut", "c-huge", "no plain file", "no plain file", "no plain file"]
    assert len(found.refused) == len(words)
    for word, sentence in zip(words, found.refused, strict=True):
        assert word in sentence


@pytest.mark.parametrize(
    "message",
    [
        msgspec.structs.replace(STATUS, topic="edge/v1/home/cam-2/status/update"),
        msgspec.structs.replace(STATUS, topic="edge/v1/home/_fleet/enroll/cam-1"),
        msgspec.structs.replace(STATUS, topic="edge/v1/home/cam-1/enroll/renew"),
        msgspec.structs.replace(STATUS, topic="edge/v1/home/cam-1/blob/ask"),
        msgspec.structs.replace(STATUS, topic="../../x"),
        msgspec.structs.replace(STATUS, payload=bytes(200_000)),
        msgspec.structs.replace(STATUS, signature="s" * 5000),
    ],
)
def test_a_receipt_holds_steps_and_states_of_its_device_and_nothing_else(
    message: SignedMessage, tmp_path: Path
) -> None:
    receipt_file(tmp_path, "x.json", STATUS, message)
    found = usb.read_receipts(tmp_path)
    assert found.receipts == []
    assert len(found.refused) == 1


def test_a_receipt_of_another_fleet_counts_for_nothing(fleet: FleetUnderTest) -> None:
    """As a device's is whose key was in another fleet before."""
    (device,) = fleet.enrolled("cam-1")
    said: list[tuple[str, bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "send", lambda topic, payload, **_: said.append((topic, payload)))
        device.say_state(digest="sha256:" + "e" * 64, version="6.6.6")
    ((topic, payload),) = said

    def receipt(of_fleet: str) -> list[SignedMessage]:
        there = topic.replace(f"/{FLEET}/", f"/{of_fleet}/")
        signature = sign_message(device.key, there, payload)
        return [SignedMessage(topic=there, payload=payload, signature=signature)]

    taken = fleet.service.import_receipts(receipt("elsewhere"))
    assert taken.refused_count == 1
    assert fleet.service.devices()[0].digest != "sha256:" + "e" * 64
    assert fleet.service.import_receipts(receipt(FLEET)).refused_count == 0
    assert fleet.service.devices()[0].digest == "sha256:" + "e" * 64


def test_a_stick_of_five_hundred_devices_goes_to_the_manager_in_bodies_that_it_takes(
    tmp_path: Path,
) -> None:
    for number in range(500):
        place = tmp_path / "receipts"
        place.mkdir(exist_ok=True)
        name = f"cam-{number}"
        message = SignedMessage(
            topic=f"edge/v1/{FLEET}/{name}/status/update", payload=b" " * 3000, signature="no"
        )
        receipt = Receipt(device=name, messages=[message])
        (place / f"{name}.json").write_bytes(encode_receipt(receipt))
    parts = list(_parts(usb.read_receipts(tmp_path).receipts))
    assert sum(len(part) for part in parts) == 500
    assert len(parts) == 3
    assert max(len(json.dumps({"messages": part})) for part in parts) < 1 << 20


def medium(fleet: FleetUnderTest, target: Path) -> Callable[[], int]:
    digest = fleet.publish("1.0.0", weights=os.urandom(5000))
    path = fleet.repository.blob_path(digest)

    def media() -> MediaSet:
        raise AssertionError("a sequence is spent only when the bundle is on the medium")

    return lambda: usb.write_medium(
        target,
        media=media,
        manifest_bytes=path.read_bytes(),
        manifest=fleet.repository.manifest(digest),
        version="1.0.0",
        blob_path=fleet.repository.blob_path,
    )


def test_a_stick_that_holds_other_bytes_than_were_written_is_found_before_it_leaves(
    fleet: FleetUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(source: Path, target: Path) -> None:
        target.write_bytes(bytes(source.stat().st_size))

    write = medium(fleet, tmp_path / "medium")
    monkeypatch.setattr(shutil, "copyfile", forget)
    with pytest.raises(TrustError, match="digest differs"):
        write()
    assert not list(tmp_path.glob("*medium*"))


def test_what_a_killed_export_left_is_removed_and_nothing_else(
    fleet: FleetUnderTest, tmp_path: Path
) -> None:
    stick = tmp_path / "stick"
    kept = (stick / ".medium.note", stick / ".medium-rc.abcdefgh", stick / "own.abcdefgh")
    for path in (*kept, stick / ".medium.abcd1_gh" / "bundle"):
        path.mkdir(parents=True)
    with pytest.raises(AssertionError, match="a sequence is spent"):
        medium(fleet, stick / "medium")()
    assert sorted(stick.iterdir()) == sorted(kept)


def test_a_stick_without_rights_and_without_fsync_of_directories_is_written(
    fleet: FleetUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As FAT is for whoever did not mount it, and as some file systems in user space are."""
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    def chmod(path: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    write = medium(fleet, tmp_path / "medium")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "chmod", chmod)
    with pytest.raises(AssertionError, match="a sequence is spent"):
        write()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_receipt_is_written_nowhere_but_on_the_medium(kind: str, tmp_path: Path) -> None:
    stick, elsewhere = tmp_path / "stick", tmp_path / "etc"
    stick.mkdir()
    elsewhere.mkdir()
    if kind == "link":
        (stick / "receipts").symlink_to(elsewhere)
    else:
        (stick / "receipts").write_text("")
    receipt = Receipt(device="cam-1", messages=[STATUS])
    reply = {"text": "1.0.0 is the active version", **receipt_body(receipt, "3-7")}
    with pytest.raises(AgentError, match="no directory of the medium"):
        _write_receipt(stick, reply)
    assert not list(elsewhere.iterdir())


def test_a_link_in_place_of_a_temporary_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "passwd"
    victim.write_text("root")
    (tmp_path / f".x.json.{os.getpid()}.part").symlink_to(victim)
    write_durably(tmp_path / "x.json", b"receipt")
    assert victim.read_text() == "root"
    assert (tmp_path / "x.json").read_bytes() == b"receipt"
