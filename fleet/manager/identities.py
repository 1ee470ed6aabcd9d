"""What operators order about identities: codes, revocation, replacement, removal. On the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from edge_contract.errors import ExitCode, WherryError
from edge_contract.topics import check_id
from fleet.errors import FleetError
from fleet.identity.codes import check_wish, new_code
from fleet.identity.issuers import Issuers
from fleet.manager.loop import Manager
from fleet.manager.rollouts import RolloutTurn
from fleet.rollout.events import Exclude
from fleet.rollout.state import AT_REST
from fleet.rollout.table import stepped
from fleet.store import devices, identity, journal

T = TypeVar("T")
_NO_CA = "this fleet has no CA, so a device needs no code"
_DOCS = "how-to/secure-fleet.md"


def make_codes(
    manager: Manager, *, who: str, count: int, expires_s: float, device: str = ""
) -> list[str]:
    """Issue one-time codes; they are in no log and no store.

    Raises:
        FleetError: this fleet has no CA, or count or life are out of range.
        ContractError: not a device's name.
    """
    check_wish(count, expires_s)
    if device:
        check_id(device, what="device")

    def work() -> list[str]:
        issuers = _required(manager)
        issuers.current(manager.clock.wall_s())

        def add(turn: RolloutTurn) -> list[str]:
            made = []
            for _ in range(count):
                code, row = new_code(
                    manager.fleet,
                    issuers.ca_fingerprint,
                    who=who,
                    now_s=turn.now_s,
                    expires_s=expires_s,
                    device=device,
                )
                identity.add_code(turn.tx, row)
                made.append(str(code))
            what = f"{count} codes for {expires_s:g} s"
            journal.add_audit(turn.tx, turn.now_s, who, "enroll-code", device, what, "done")
            return made

        return manager.transact(add)

    return manager.do(work)


def revoke(manager: Manager, device: str, *, who: str, reason: str) -> None:
    """Hear a device no more: its key, and every certificate that it was given.

    Raises:
        FleetError: no such device.
    """

    def work() -> None:
        def change(turn: RolloutTurn) -> None:
            row = devices.get_device(turn.tx, device)
            if row is None:
                raise _unknown(device)
            _leave_rollout(turn, row.line, device, who)
            identity.revoke_certificates(turn.tx, device, turn.now_s)
            identity.revoke_key(turn.tx, row.public_key, device, turn.now_s, reason)
            devices.change_device(turn.tx, device, online=False)
            _note(turn, who, "revoke", device, reason, f"{device} was revoked: {reason}")

        manager.transact(change)
        manager.identities_changed()
        manager.blobs.forget(device)  # what it is being sent

    _audited(manager, who, "revoke", device, reason, work)


def cut(manager: Manager, *, who: str) -> list[str]:
    """End the connections that revoked devices still have; on the caller's thread.

    Raises:
        FleetError: it cannot be done; says why.
    """
    names = manager.evictions.evict()
    if names:

        def note(turn: RolloutTurn) -> None:
            text = f"{len(names)} names: {', '.join(names)}"[:500]
            journal.add_audit(turn.tx, turn.now_s, who, "cut", "", text, "done")

        manager.do(lambda: manager.transact(note))
    return names


def replace(manager: Manager, device: str, *, who: str, reason: str, expires_s: float) -> str:
    """A code that gives new hardware this device's name; the old key ends when it is used.

    Raises:
        FleetError: no such device, or this fleet has no CA.
    """
    check_wish(1, expires_s)

    def work() -> str:
        issuers = _required(manager)

        def add(turn: RolloutTurn) -> str:
            if devices.get_device(turn.tx, device) is None:
                raise _unknown(device)
            code, row = new_code(
                manager.fleet,
                issuers.ca_fingerprint,
                who=who,
                now_s=turn.now_s,
                expires_s=expires_s,
                device=device,
                replaces=True,
            )
            identity.add_code(turn.tx, row)
            text = f"a code to replace {device} was issued"
            _note(turn, who, "replace", device, reason, text)
            return str(code)

        return manager.transact(add)

    return _audited(manager, who, "replace", device, reason, work)


def remove(manager: Manager, device: str, *, who: str, reason: str) -> None:
    """Forget a device and clear what is retained for it. Its records stay, as history.

    Raises:
        FleetError: no such device.
    """

    def work() -> None:
        def change(turn: RolloutTurn) -> None:
            row = devices.get_device(turn.tx, device)
            if row is None:
                raise _unknown(device)
            _leave_rollout(turn, row.line, device, who)
            identity.revoke_certificates(turn.tx, device, turn.now_s)
            if manager.issuers.installed:
                identity.revoke_key(turn.tx, row.public_key, device, turn.now_s, "removed")
            identity.remove_device(turn.tx, device)
            _note(turn, who, "remove", device, reason, f"{device} was removed")

        manager.transact(change)
        manager.identities_changed(gone=[device])

    _audited(manager, who, "remove", device, reason, work)


def _audited(
    manager: Manager, who: str, what: str, device: str, reason: str, work: Callable[[], T]
) -> T:
    """Run ``work`` on the loop; what was refused stands in the audit as well."""

    def run() -> T:
        try:
            return work()
        except WherryError as error:
            manager.audit.record_refusal(who, what, device, reason, error.message)
            raise

    return manager.do(run)


def _leave_rollout(turn: RolloutTurn, line: str, device: str, who: str) -> None:
    """A device that will never answer again must not keep a rollout from its end."""
    state = turn.newest(line)
    record = state.devices.get(device) if state is not None else None
    if state is None or record is None or state.status in AT_REST:
        return
    if stepped(record.phase, "exclude") is None:
        return  # it keeps nobody waiting: excluded or withdrawn before, or back already
    turn.command(state.plan.rollout_id, Exclude(now_s=turn.now_s, who=who, device=device))


def _note(turn: RolloutTurn, who: str, what: str, device: str, reason: str, text: str) -> None:
    journal.add_audit(turn.tx, turn.now_s, who, what, device, reason, "done")
    journal.add_log(turn.tx, turn.now_s, "device", device, text, "warning")


def _required(manager: Manager) -> Issuers:
    if not manager.issuers.installed:
        raise FleetError(_NO_CA, hint="edge-fleet ca init, on another machine", docs=_DOCS)
    return manager.issuers


def _unknown(device: str) -> FleetError:
    return FleetError(
        f"no device {device[:80]!r}", hint="edge-fleet devices", exit_code=ExitCode.NOT_FOUND
    )
