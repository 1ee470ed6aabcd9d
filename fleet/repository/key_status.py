"""What ``key status`` shows: whose keys count for what, what expires when, and what to do next."""

from __future__ import annotations

from datetime import datetime, timezone

import msgspec
from tuf.api.metadata import Snapshot, Targets, Timestamp

from edge_contract.metadata import OFFLINE_ROLES
from edge_contract.signing import ed25519_key
from fleet.repository.archive import DIRECTOR, Archive
from fleet.repository.delegations import Delegation, delegations, offline_files
from fleet.repository.edition_signer import is_offline, owner_of, role_keys
from fleet.repository.offline_files import kept_until_s
from fleet.repository.role_files import Edition

_DAY_S = 86_400.0
REMIND_S = 60 * _DAY_S
"""How long before an offline signature expires ``key status`` begins to ask for it."""

START_MANAGER = "edge-fleet up"
"""The action where the manager's own keys have not signed for too long."""


class RoleStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One role (or director) as ``key status`` shows it.

    action: the next command; "" when nothing is to be done.
    """

    role: str
    version: int
    threshold: int
    owners: list[str]
    keyids: list[str]
    expires_s: float
    left_days: float
    held_by_manager: bool
    action: str


def key_status(archive: Archive) -> list[RoleStatus]:
    """Every role and every director key of the edition in force, what expires first first."""
    base = archive.files.read()
    now_s = archive.clock()
    media_s = kept_until_s(archive)
    found = [_role(base, item, now_s, media_s) for item in delegations(base)]
    directors = archive.directors(base)
    # Their list is signed with the targets.
    offline = is_offline(base.root.signed, Targets.type)
    for key in directors.keys:
        left_s = key.expires - now_s
        found.append(
            RoleStatus(
                role=DIRECTOR,
                version=directors.epoch,
                threshold=1,
                owners=["the manager"],
                keyids=[ed25519_key(bytes.fromhex(key.public)).keyid],
                expires_s=key.expires,
                left_days=left_s / _DAY_S,
                held_by_manager=True,
                action="edge-fleet key renew" if offline and left_s < REMIND_S else "",
            )
        )
    return sorted(found, key=lambda item: item.expires_s)


def local_date(seconds: float) -> str:
    """A date for people, in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")


def _role(base: Edition, item: Delegation, now_s: float, media_s: float | None) -> RoleStatus:
    version, expires_s = _file(base, item.role)
    offline = is_offline(item.delegator, item.role)
    action = ""
    if media_s is not None and item.role in OFFLINE_ROLES and media_s < expires_s:
        expires_s = media_s
        # Of a fleet that let them lapse long ago nobody wants them.
        if offline and abs(expires_s - now_s) < REMIND_S:
            action = "edge-fleet media prepare FILE"
    elif offline and expires_s - now_s < REMIND_S:
        action = "edge-fleet key renew"
    elif not offline and expires_s < now_s:
        action = START_MANAGER
    return RoleStatus(
        role=item.role,
        version=version,
        threshold=item.named.threshold,
        owners=[owner_of(key) for key in role_keys(item.delegator, item.role)],
        keyids=list(item.named.keyids),
        expires_s=expires_s,
        left_days=(expires_s - now_s) / _DAY_S,
        held_by_manager=not offline,
        action=action,
    )


def _file(base: Edition, role: str) -> tuple[int, float]:
    """(version, expiry) of a role's file. One without a file (those of offline media, before any
    were signed) counts as long as the targets that name its keys."""
    files = {
        **offline_files(base),
        Snapshot.type: base.snapshot.signed,
        Timestamp.type: base.timestamp.signed,
    }
    signed = files.get(role)
    if signed is None:
        return 0, base.targets.signed.expires.timestamp()
    return signed.version, signed.expires.timestamp()
