"""An installation from a file while the agent runs: what a client names may be anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_contract.metadata import METADATA_FILE_LIMIT_BYTES
from tests.trust.bundle_maker import make_bundle
from tests.update.fleet import V1
from tests.update.medium_bench import last, write_approved
from tests.update.test_media_orders import Setup, setup

__all__ = ["setup"]


def blobs(setup: Setup) -> list[Path]:
    return list((setup.home / "state" / "blobs").iterdir())


def test_an_approved_bundle_is_installed_and_its_client_hears_every_step(setup: Setup) -> None:
    bundle = write_approved(setup.home / "here", setup.publisher, V1)
    bench = setup.start()
    request = bench.begin_local(bundle)
    bench.loop()
    assert last(request)["phase"] == "committed"
    assert bench.device.running == V1.digest
    assert not blobs(setup)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("approval.json", f"at most {METADATA_FILE_LIMIT_BYTES} are accepted"),
        ("root.json", "root"),
    ],
)
def test_a_document_of_any_length_is_read_to_its_limit_only(
    setup: Setup, name: str, says: str
) -> None:
    bundle = write_approved(setup.home / "here", setup.publisher, V1)
    with (bundle.parent / name).open("r+b") as file:
        file.truncate(1 << 40)  # a terabyte of nothing, which would be the end of the agent
    bench = setup.start()
    request = bench.begin_local(bundle)
    bench.loop()
    reply = last(request)
    assert says in reply["error"]
    assert str(METADATA_FILE_LIMIT_BYTES + 1) in reply["error"] or name == "root.json"


@pytest.mark.parametrize(
    "name", ["root.json", "approval.json", "bundle/index.json", "bundle/blobs/sha256/MODEL"]
)
def test_a_pipe_that_nobody_writes_to_is_refused_and_holds_nothing_up(
    setup: Setup, name: str
) -> None:
    bundle = write_approved(setup.home / "here", setup.publisher, V1)
    largest = max((bundle / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    pipe = bundle.parent / name.replace("MODEL", largest.name)
    kept = pipe.read_bytes()
    pipe.unlink()
    os.mkfifo(pipe)
    bench = setup.start()
    request = bench.begin_local(bundle)
    bench.loop()
    assert "error" in last(request)
    pipe.unlink()
    pipe.write_bytes(kept)
    again = bench.begin_local(bundle)
    bench.loop()
    assert last(again)["phase"] == "committed"


def test_nothing_of_a_bundle_that_is_not_approved_is_copied(setup: Setup) -> None:
    write_approved(setup.home / "here", setup.publisher, V1)
    evil = make_bundle(setup.home / "here" / "evil", version="6.6.6").path
    bench = setup.start()
    request = bench.begin_local(evil)
    while not bench.posted.qsize():
        assert bench.device.pump()
    bench.loop()
    assert "not approved" in last(request)["error"]
    assert not blobs(setup)
