"""Is a device there? The word of a connection that is not the newest changes nothing."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from edge_contract.codec import encode_json
from edge_contract.messages import AgentState, Online
from fleet.manager.presence import hear_online, hear_state
from fleet.manager.roll_call import GRACE_S, RollCall
from fleet.store.devices import DeviceRow
from tests.device_words import said_state

ROW = DeviceRow(
    device="cam",
    public_key="00" * 32,
    hardware="pi",
    line="digits",
    agent_version="1",
    enrolled_at_s=0.0,
    last_seen_at_s=0.0,
)


def online(connection_id: str, seq: int, on: bool = True, **changes: Any) -> Online:
    header = {"ts": 100.0 + seq, "seq": seq, "boot_id": "b", "model_version": "", **changes}
    return Online(connection_id=connection_id, online=on, **header)


def state(connection_id: str, seq: int, **changes: Any) -> AgentState:
    return said_state(
        **{"ts": 100.0 + seq, "seq": seq, "boot_id": "b", "model_version": "1.0.0", **changes},
        connection_id=connection_id,
        agent_version="2",
        hardware="pi",
        device_key="",
        line="digits",
        active_digest="d",
        desired_seq=7,
    )


def heard(row: DeviceRow, message: Online, *, retained: bool = False) -> DeviceRow:
    after = hear_online(row, message, retained=retained)
    assert after is not None
    return after


def test_a_device_comes_and_goes() -> None:
    row = heard(ROW, online("c1", 2))
    assert row.online
    row = heard(row, online("c1", 1, on=False))  # the will is older than the connection
    assert not row.online
    assert heard(row, online("c2", 4)).connection_id == "c2"


def test_the_will_of_an_old_connection_is_stale() -> None:
    row = heard(heard(ROW, online("c1", 2)), online("c2", 4))
    assert hear_online(row, online("c1", 1, on=False), retained=False) is None
    assert hear_online(row, online("c1", 1, on=False), retained=True) is None


def test_a_connection_that_came_and_went_unseen_leaves_the_device_offline() -> None:
    row = heard(ROW, online("c1", 2))
    row = heard(row, online("c2", 3, on=False), retained=True)
    assert (row.online, row.connection_id) == (False, "c2")
    # Its retained state arrives after: of the same connection, so it does not wake it up.
    message = state("c2", 5)
    after = hear_state(row, message, encode_json(message), retained=True, now_s=1.0)
    assert after is not None
    assert not after.online


def test_a_state_of_a_newer_connection_says_that_the_device_is_there() -> None:
    row = heard(heard(ROW, online("c1", 2)), online("c1", 1, on=False))
    message = state("c2", 5)
    after = hear_state(row, message, encode_json(message), retained=False, now_s=1.0)
    assert after is not None
    assert (after.online, after.reported_seq, after.agent_version) == (True, 7, "2")


def test_a_clock_that_fell_back_over_a_reboot_does_not_hide_a_device() -> None:
    row = heard(ROW, online("c1", 2))
    after = heard(row, online("c2", 1, ts=5.0, boot_id="b2"))
    assert (after.online, after.connection_id) == (True, "c2")
    # Retained, the same message could be an old one.
    assert hear_online(row, online("c2", 1, ts=5.0, boot_id="b2"), retained=True) is None


def test_an_older_state_does_not_overwrite_a_newer_one() -> None:
    newer, older = state("c1", 6), state("c1", 5)
    row = replace(ROW, state=encode_json(newer))
    assert hear_state(row, older, encode_json(older), retained=False, now_s=1.0) is None
    assert hear_state(row, newer, encode_json(newer), retained=False, now_s=1.0) is None


def test_after_a_lost_connection_the_silent_ones_are_missing_once() -> None:
    call = RollCall()
    call.heard(["early"])  # what is retained may come before the subscription stands
    call.begin(["early", "late", "silent"], now_s=100.0)
    assert call.missing(100.0 + GRACE_S - 0.1) == []
    call.heard(["late", "new"])
    assert call.missing(100.0 + GRACE_S) == ["silent"]
    assert call.missing(1000.0) == []


def test_a_roll_call_ends_with_its_connection() -> None:
    call = RollCall()
    call.heard(["cam"])
    call.begin(["cam", "silent"], now_s=0.0)
    call.lost()
    assert call.missing(1000.0) == []
    call.begin(["cam"], now_s=1000.0)
    assert call.missing(1000.0 + GRACE_S) == ["cam"]
