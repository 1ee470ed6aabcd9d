"""Attacks on the device itself: its hooks, its disk, its directory, a second agent beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.agent import Agent
from edge_agent.hooks import DeviceHooks
from edge_agent.orders import OrderDesk
from edge_agent.statedir import StateDir
from edge_contract.digest import digest_of, hex_of
from edge_contract.layout import BundleDir
from edge_contract.manifest import CODE
from edge_contract.topics import topic
from tests.agent.bundles import HARDWARE
from tests.attacks.test_files import bundle, install
from tests.attacks.victim import DEVICE, FLEET, Victim
from tests.trust.bundle_maker import bundle_files, write_files
from tests.trust.tuf_simulator import LINE
from tests.update.test_disk_full import FOR_EVER, FullDisk

__all__ = ["bundle"]
HOOK = "hooks/v1/post-install"


def state_of(victim: Victim) -> Path:
    return victim.home / "state"


# --- hooks without signature -----------------------------------------------------------------


def test_hook_slipped_into_an_approved_bundle(victim: Victim, bundle: BundleDir) -> None:
    stick = bundle.path.parent
    files = bundle_files("digits", "2.0.0", b"weights" * 99)
    files[HOOK] = (CODE, b"#!/bin/sh\ntouch /tmp/owned\n")
    write_files(stick / "other", name="digits", version="2.0.0", files=files)
    victim.tries(lambda: install(victim, stick / "other"))
    victim.refused("edge_agent.trust.approved", "digits 2.0.0 is approved as .*, but this is")


def test_hook_changed_in_an_approved_bundle(victim: Victim, bundle: BundleDir) -> None:
    hook = next(layer for layer in bundle.manifest.layers if layer.media_type == CODE)
    blob = bundle.path / "blobs" / "sha256" / hex_of(hook.digest)
    blob.write_bytes(b"x" * hook.size)
    victim.tries(lambda: install(victim, bundle.path))
    victim.refused("edge_contract.layout", "blobs/sha256/.*: digest differs")


def test_hook_of_the_device_that_others_may_write(victim: Victim) -> None:
    hook = victim.home / "hooks" / "v1" / "post-commit"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!/bin/sh\ntouch {victim.home / 'owned'}\n")
    hook.chmod(0o777)
    hooks = DeviceHooks(victim.home / "hooks", lambda event: None)
    hooks.tell("post-commit", {})
    hooks.close()
    victim.refused("firmware_hooks.runner", "is not run: .* may be written by its group or by oth")
    assert not (victim.home / "owned").exists()


# --- the disk --------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [1, 6, 11])
def test_full_disk_while_an_order_is_taken(write: int, victim: Victim) -> None:
    """From metadata, time floor or order on: what is not kept is not obeyed, and not lost."""
    victim.publisher.approve("2.0.0", b"another")
    victim.publisher.bump()
    order = victim.envelope(version="2.0.0", manifest_digest=digest_of(b"another"))
    disk = FullDisk(write, FOR_EVER)
    with disk.mounted():
        victim.metadata()
        victim.send(topic(FLEET, DEVICE, "desired", "model"), order)
        victim.agent._tick()
        victim.refused("the disk itself", "No space left on device")
    victim.metadata()
    victim.agent._tick()
    assert victim.agent.desk.desired_seq == 2, "taken up by itself once there is space"


# --- the state directory ---------------------------------------------------------------------


def test_two_agents_on_one_state_directory(victim: Victim) -> None:
    victim.tries(lambda: Agent(victim.agent.config, victim.clock))
    victim.refused("edge_agent.statedir", r"another edge-agent \(pid \d+\) runs on")


@pytest.mark.parametrize("name", [".", "boot.json", "slots", "update", "update/journal"])
def test_state_directory_that_others_may_write(name: str, victim: Victim) -> None:
    path = state_of(victim) / name
    path.touch() if path.suffix else None
    state_of(victim).chmod(0o755)  # below a closed one nobody comes
    path.chmod(0o777)
    victim.tries(lambda: StateDir(state_of(victim)))
    victim.refused("edge_agent.statedir", "may be changed by others")


@pytest.mark.parametrize("name", ["trust", "trust/trusted.json", "trust/last-order.json"])
def test_trust_that_others_may_write(name: str, victim: Victim) -> None:
    (state_of(victim) / name).chmod(0o777)
    victim.agent.desk = OrderDesk(
        state_of(victim),
        victim.publisher.roots[0],
        fleet=FLEET,
        device=DEVICE,
        device_key=victim.device_key,
        line=LINE,
        hardware=HARDWARE,
        clock=victim.clock,
    )
    victim.agent.fleet._desk = victim.agent.desk
    victim.order(victim.envelope())
    victim.refused("edge_agent.orders", "changed by others .*; new installs stop, what runs keeps")


def test_device_key_that_others_may_read(victim: Victim) -> None:
    path = state_of(victim) / "device-key.pem"
    path.chmod(0o644)
    assert victim.agent.parts._read_identity(path) is None
    victim.refused("edge_agent.identity.device_key", "others may read this private key .* no fleet")
