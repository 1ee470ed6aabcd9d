"""One device without a fleet: real processes, real bundles, real signatures."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge_contract.layout import BundleDir, pack_tar
from fleet.repository.tuf_repository import Repository
from tests.agent.bundles import MODEL
from tests.agent.conftest import ROOT, Bench
from tests.programs import leave_out


def swapped_weights() -> bytes:
    model = onnx.load(MODEL)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.flip(values).copy(), tensor.name))
    return model.SerializeToString()


def test_a_bundle_from_a_file_is_installed_tried_and_committed_offline(bench: Bench) -> None:
    installed = bench.install(bench.bundle(), "--json")
    assert installed.returncode == 0, installed.stderr
    assert json.loads(installed.stdout)["phase"] == "trial"
    agent = bench.start()
    bench.wait("the commit", lambda: ("active", "A", "1.0.0") in bench.facts())
    status = bench.wait("frames", bench.status)
    assert status["active_slot"] == "A"
    assert status["link"]["up"] is False
    bench.wait("answers", lambda: len(bench.predictions()) > 60)
    assert bench.stop(agent) == 0
    right = sum("class_id" in line for line in bench.predictions())
    assert right == len(bench.predictions())
    assert (bench.state / "spool-ledger.jsonl").stat().st_size > 0


def test_a_tar_is_as_good_as_a_directory(bench: Bench) -> None:
    bundle = bench.bundle()
    pack_tar(BundleDir(bundle), bundle.parent / "bundle.tar")
    installed = bench.install(bundle.parent / "bundle.tar")
    assert installed.returncode == 0, installed.stderr


def test_a_running_agent_installs_while_it_infers_and_loses_no_frame(bench: Bench) -> None:
    bench.install(bench.bundle())
    agent = bench.start()
    bench.wait("the first commit", lambda: ("active", "A", "1.0.0") in bench.facts())
    installed = bench.install(bench.bundle("1.1.0"), "--json")
    assert installed.returncode == 0, installed.stdout + installed.stderr
    assert json.loads(installed.stdout)["phase"] == "committed"
    bench.wait(
        "answers by the new one", lambda: bench.predictions()[-1]["model_version"] == "1.1.0"
    )
    dropped = bench.status()["inference"]["frames_dropped_count"]
    bench.stop(agent)
    answers = bench.predictions()
    assert dropped == 0
    assert all("class_id" in line for line in answers)
    # The source repeats 120 names in order: none was skipped over the swap.
    numbers = [int(line["frame"].split(".")[0]) for line in answers]
    assert all((b - a) % 120 == 1 for a, b in itertools.pairwise(numbers))
    versions = [line["model_version"] for line in answers]
    assert versions == sorted(versions)


def test_weights_swapped_after_compiling_are_refused_and_slot_a_runs_on(bench: Bench) -> None:
    bench.install(bench.bundle())
    agent = bench.start()
    bench.wait("the first commit", lambda: ("active", "A", "1.0.0") in bench.facts())
    refused = bench.install(bench.bundle("1.0.1", model=swapped_weights()))
    assert refused.returncode == 1
    assert "golden vectors differ" in refused.stderr
    before = len(bench.predictions())
    bench.wait("inference goes on", lambda: len(bench.predictions()) > before + 30)
    assert bench.predictions()[-1]["model_version"] == "1.0.0"
    assert not [f for f in bench.facts() if f[0] in ("trial", "active") and f[2] == "1.0.1"]
    bench.stop(agent)


def test_an_unapproved_bundle_is_refused_with_the_exit_code_of_signatures(
    bench: Bench, tmp_path: Path
) -> None:
    stranger = Repository(tmp_path / "stranger", "test", lambda: 1_800_000_000.0)
    bundle = bench.bundle()
    stranger.publish(bundle, approval=bundle.parent / "approval.json")
    refused = bench.install(bundle, "--json")
    assert refused.returncode == 4
    assert set(json.loads(refused.stdout)) == {"error", "code", "hint", "docs"}
    assert not (bench.state / "slots" / "A").exists()


def test_a_bundle_without_any_approval_says_how_to_get_one(bench: Bench) -> None:
    bundle = bench.bundle()
    (bundle.parent / "approval.json").unlink()
    refused = bench.install(bundle)
    assert refused.returncode == 4
    assert "edge-fleet publish" in refused.stderr


def test_a_tampered_blob_is_refused(bench: Bench) -> None:
    bundle = bench.bundle()
    largest = max((bundle / "blobs" / "sha256").iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[100] ^= 1
    largest.write_bytes(data)
    refused = bench.install(bundle)
    assert refused.returncode == 4
    assert "digest differs" in refused.stderr


def test_a_second_agent_on_one_state_directory_is_refused(bench: Bench) -> None:
    bench.install(bench.bundle())
    agent = bench.start()
    bench.wait("the agent", bench.status)
    second = bench.agent("run", "--config", bench.config)
    assert second.returncode == 1
    assert f"pid {agent.pid}" in second.stderr
    assert agent.poll() is None
    bench.stop(agent)


def test_sigkill_loses_no_version_and_the_agent_says_that_it_crashed(bench: Bench) -> None:
    bench.install(bench.bundle())
    agent = bench.start()
    bench.wait("the commit", lambda: ("active", "A", "1.0.0") in bench.facts())
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    before = len(bench.predictions())
    again = bench.start()
    bench.wait("it infers again", lambda: len(bench.predictions()) > before + 30)
    assert bench.predictions()[-1]["slot"] == "A"
    assert "last run ended: crash" in (bench.home / "agent.log").read_text()
    bench.stop(again)


def test_hold_keeps_updates_out_until_release(bench: Bench) -> None:
    bench.install(bench.bundle())
    agent = bench.start()
    bench.wait("the commit", lambda: ("active", "A", "1.0.0") in bench.facts())
    assert bench.agent("hold", "--state-dir", bench.state).returncode == 0
    assert bench.status()["held"] is True
    waiting = subprocess.Popen(
        [
            *(sys.executable, "-m", "edge_agent.cli", "install", str(bench.bundle("1.1.0"))),
            *("--trust", str(bench.home / "root.json"), "--state-dir", str(bench.state)),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    bench.wait("the order waits", lambda: bench.status()["update"]["waiting"])
    assert not [fact for fact in bench.facts() if fact[2] == "1.1.0"]
    assert bench.agent("release", "--state-dir", bench.state).returncode == 0
    assert waiting.wait(30) == 0
    assert ("active", "B", "1.1.0") in bench.facts()
    bench.stop(agent)


def in_small_file_system(bench: Bench, size: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script where the state directory is a tmpfs of ``size``."""
    bench.state.mkdir(exist_ok=True)
    command = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
    mount = f"mount -t tmpfs -o size={size},mode=700 tmpfs {bench.state} && {script}"
    try:
        probe = subprocess.run([*command, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        probe = subprocess.CompletedProcess([], 1)
    if probe.returncode != 0:
        leave_out("needs unshare and the right to mount a tmpfs")
    return subprocess.run(
        [*command, "sh", "-c", mount], capture_output=True, text=True, cwd=ROOT, check=False
    )


def test_a_full_state_directory_is_one_clear_error(bench: Bench) -> None:
    fill = f"head -c 1m /dev/zero > {bench.state}/x 2>/dev/null"
    run = f"{sys.executable} -m edge_agent.cli run --config {bench.config}"
    done = in_small_file_system(bench, "256k", f"{fill}; {run}")
    assert done.returncode == 1
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("edge-agent:")]
    assert "No space left" in line
    assert "df -h" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_room_for_an_update_leaves_nothing_half_written(bench: Bench) -> None:
    bundle = bench.bundle()
    install = (
        f"{sys.executable} -m edge_agent.cli install {bundle} --trust {bench.home}/root.json"
        f" --config {bench.config}; code=$?; ls -R {bench.state}; exit $code"
    )
    done = in_small_file_system(bench, "192k", install)
    assert done.returncode == 1
    assert "no space left" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert "variants" not in done.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("[nonsense]\nx = 1\n", "nonsense"),
        ("[mqtt]\nhost = 'h'\nport = 99999\n", "port"),
        ("[spool]\n", "spool"),
        ("= broken", "agent.toml"),
    ],
)
def test_a_bad_configuration_is_named(bench: Bench, change: str, words: str) -> None:
    bench.configure(change)
    done = bench.agent("run", "--config", bench.config)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_hardware_names_the_known_ones(bench: Bench) -> None:
    bench.configure(hardware="commodore-64")
    done = bench.agent("run", "--config", bench.config)
    assert done.returncode == 3
    assert "raspberry-pi-4" in done.stderr


def test_a_missing_root_says_where_it_comes_from(bench: Bench) -> None:
    (bench.home / "root.json").unlink()
    done = bench.agent("run", "--config", bench.config)
    assert done.returncode == 1
    assert "edge-fleet root" in done.stderr


def test_frames_that_cannot_be_used_are_refused_and_counted(bench: Bench) -> None:
    frames = bench.home / "frames"
    shutil.rmtree(frames)
    frames.mkdir()
    np.save(frames / "0.npy", np.zeros((7, 7, 3), np.float32))
    (frames / "1.png").write_bytes(b"not a picture")
    np.save(frames / "2.npy", np.full((32, 32, 1), 128, np.uint8))
    bench.install(bench.bundle())
    bench.configure()
    agent = bench.start()
    bench.wait("some lines", lambda: len(bench.predictions()) > 12)
    bench.stop(agent)
    lines = bench.predictions()
    assert {line["frame"]: line.get("error", "") for line in lines}.keys() >= {"0.npy", "1.png"}
    assert all(("class_id" in line) == (line["frame"] == "2.npy") for line in lines)
    assert all("expected" in line["error"] for line in lines if line["frame"] == "0.npy")


def test_doctor_finds_what_is_wrong_and_says_what_to_do(bench: Bench) -> None:
    good = bench.agent("doctor", "--config", bench.config)
    assert good.returncode == 0, good.stdout
    bench.configure('[mqtt]\nhost = "127.0.0.1"\nport = 1\n')
    shutil.rmtree(bench.home / "frames")
    bad = bench.agent("doctor", "--config", bench.config, "--json")
    assert bad.returncode == 1
    wrong = [f for f in json.loads(bad.stdout)["findings"] if not f["ok"]]
    assert {"broker", "source"} <= {word for f in wrong for word in f["text"].split()}
    assert all(finding["hint"] for finding in wrong)
