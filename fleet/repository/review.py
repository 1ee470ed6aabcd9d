"""What a signing event would change, as its signer sees it. Pure.

The difference is taken from the files themselves, never from what the event says of itself. What
is not in the table of the event's purpose is refused: a proposal to publish a version cannot
bring a key along, and a field that this release does not know cannot change at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from securesystemslib.signer import Key
from tuf.api.metadata import Role, Root, Targets

from edge_contract.desired import DIRECTORS_TARGET, Directors
from edge_contract.errors import TrustError
from edge_contract.metadata import MIN_RELEASE_FIELD, OFFLINE_ROLES, version_order
from edge_contract.signing import ed25519_key
from fleet.repository.key_files import OWNER_FIELD, true_id

Kind = Literal[
    "expiry",
    "version",
    "version retired",
    "floor",
    "line",
    "key added",
    "key removed",
    "threshold",
    "directors",
    "epoch",
    "leap",
]

PERMITTED: dict[str, frozenset[Kind]] = {
    "publish": frozenset({"expiry", "version", "version retired", "line"}),
    "retire": frozenset({"expiry", "version retired"}),
    "floor": frozenset({"expiry", "floor"}),
    "keys": frozenset({"expiry", "key added", "key removed", "threshold"}),
    "directors": frozenset({"expiry", "directors", "epoch"}),
    "renew": frozenset({"expiry"}),
    "leap": frozenset({"expiry", "leap"}),
}
"""Purpose of an event -> the only kinds of change that it may hold."""


@dataclass(frozen=True)
class Change:
    """One difference, in words."""

    kind: Kind
    role: str
    text: str


def differences(
    role: str,
    before: Root | Targets | None,
    after: Root | Targets,
    *,
    leap: int,
    holders: Role,
) -> list[Change]:
    """Every difference between two versions of a role.

    Args:
        role: its name.
        before: what stands; None for a role that is new.
        after: what is proposed.
        leap: how much further than the next version it may go.
        holders: the keys and the threshold of the targets role: whose a new line is.

    Raises:
        TrustError: one that no purpose permits.
    """
    old = before.to_dict() if before else Targets(expires=after.expires).to_dict()
    new = after.to_dict()
    _check_keys(new.get("delegations", new))
    found: list[Change] = []
    expected = (before.version if before else 0) + 1 + (leap if role != Root.type else 0)
    if after.version != expected:
        raise _refused(role, f"version {after.version}, expected {expected}")
    if leap and role != Root.type:
        found.append(Change("leap", role, f"{role}: leaps to version {after.version}"))
    if old["expires"] != new["expires"] or before is None:
        found.append(Change("expiry", role, f"{role}: expires {new['expires']}"))
    for field in ("version", "expires"):
        old.pop(field)
        new.pop(field)
    if role == Root.type:
        found += _root_keys(old, new)
    else:
        found += _targets(role, old, new)
        approved = after.targets if isinstance(after, Targets) else ()
        found += _floor(role, old, new, approved)
        found += _delegations(role, old, new, holders)
    for field in sorted(set(old) | set(new)):
        if old.get(field) != new.get(field):
            raise _refused(role, f"{field!r} is changed, which no signing event may do")
    return found


def director_differences(before: Directors, after: Directors) -> list[Change]:
    """Every difference between two lists of directors; a fresh expiry is no other director."""
    found: list[Change] = []
    role = Targets.type
    old = {key.public: key for key in before.keys}
    new = {key.public: key for key in after.keys}
    for public in sorted(set(old) | set(new)):
        keyid = ed25519_key(bytes.fromhex(public)).keyid[:12]
        a, b = old.get(public), new.get(public)
        if a is None and b is not None:
            where = f"fleets {b.fleets}, lines {b.lines}, until {_utc(b.expires)}"
            found.append(Change("directors", role, f"director {keyid} is added: {where}"))
        elif b is None:
            found.append(Change("directors", role, f"director {keyid} is REVOKED"))
        elif a is not None and (a.fleets, a.lines) != (b.fleets, b.lines):
            scope = f"fleets {b.fleets}, lines {b.lines}"
            found.append(Change("directors", role, f"director {keyid} may now order {scope}"))
        elif a is not None and a.expires != b.expires:
            found.append(Change("expiry", role, f"director {keyid}: expires {_utc(b.expires)}"))
    if after.epoch < before.epoch:
        raise _refused(role, f"epoch goes back from {before.epoch} to {after.epoch}")
    if after.epoch > before.epoch:
        found.append(Change("epoch", role, f"epoch {before.epoch} → {after.epoch}"))
    if before.audit_keys != after.audit_keys:
        gone = set(before.audit_keys) - set(after.audit_keys)
        if gone:
            raise _refused(role, "an audit key is removed: entries signed by it would not verify")
        found.append(Change("directors", role, "an audit key is added"))
    return found


def require_permitted(purpose: str, changes: list[Change]) -> None:
    """Whether every change belongs to the purpose.

    Raises:
        TrustError: one does not.
    """
    for change in changes:
        if change.kind not in PERMITTED[purpose]:
            raise TrustError(
                f"a signing event to {purpose!r} must not change this: {change.text}",
                hint="do not sign it; find out who changed the event",
                docs="explanation/trust.md",
            )


def _root_keys(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    found = _key_changes(old["keys"], new["keys"], old["roles"], new["roles"])
    for part in (old, new):
        part.pop("keys")
        part.pop("roles")
    return found


def _targets(role: str, old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    found = []
    before, after = old.pop("targets"), new.pop("targets")
    for path in sorted(set(before) | set(after)):
        a, b = before.get(path), after.get(path)
        if path == DIRECTORS_TARGET and a is not None and b is not None:
            continue  # compared by their content
        if a is None:
            if set(b) != {"hashes", "length"} or set(b["hashes"]) != {"sha256"}:
                raise _refused(role, f"{path} is described in an unknown way")
            found.append(
                Change("version", role, f"{path} is APPROVED: sha256:{b['hashes']['sha256']}")
            )
        elif b is None:
            found.append(Change("version retired", role, f"{path} is retired"))
        elif a != b:
            raise _refused(role, f"{path} gets another content; a version never changes")
    return found


def newest_approved(paths: Iterable[str]) -> str:
    """The newest version among target paths of one line, ``line/version``; "" for none."""
    return max((path.rpartition("/")[2] for path in paths), key=version_order, default="")


def _floor(
    role: str, old: dict[str, Any], new: dict[str, Any], approved: Iterable[str]
) -> list[Change]:
    before, after = old.pop(MIN_RELEASE_FIELD, ""), new.pop(MIN_RELEASE_FIELD, "")
    if before == after:
        return []
    version_order(after)
    lower = bool(before) and version_order(after) < version_order(before)
    newest = newest_approved(approved)
    stops = not newest or version_order(after) > version_order(newest)
    return [
        Change(
            "floor",
            role,
            f"{role}: no new install below {after}"
            + (f", LOWERED from {before}" if lower else f" (was {before or 'none'})")
            + (", ABOVE EVERY approved version: STOPS all new installs" if stops else ""),
        )
    ]


def _delegations(
    role: str, old: dict[str, Any], new: dict[str, Any], holders: Role
) -> list[Change]:
    empty: dict[str, Any] = {"keys": {}, "roles": []}
    before, after = old.pop("delegations", empty), new.pop("delegations", empty)
    if set(after) != {"keys", "roles"}:
        raise _refused(role, "its delegations have an unknown form")
    a = {item["name"]: dict(item) for item in before["roles"]}
    b = {item["name"]: dict(item) for item in after["roles"]}
    found = []
    for name in sorted(set(a) | set(b)):
        if name not in b:
            raise _refused(role, f"the delegation {name} is removed")
        if name not in a:
            line = name.removeprefix("line-")
            wanted = [name] if name in OFFLINE_ROLES else [f"{line}/*"]
            item = b[name]
            if item["paths"] != wanted or item["terminating"] is not True or "/" in line:
                raise _refused(role, f"the delegation {name} is not one line's alone")
            if (set(item["keyids"]), item["threshold"]) != (set(holders.keyids), holders.threshold):
                raise _refused(role, f"the new delegation {name} is not to the targets role's keys")
            owners = [_owner(after["keys"], keyid) for keyid in item["keyids"]]
            text = f"new line {line}: {item['threshold']} of {', '.join(owners)} approve it"
            found.append(Change("line", role, text))
            continue
        for field in set(a[name]) | set(b[name]) - {"keyids", "threshold"}:
            if field not in ("keyids", "threshold") and a[name].get(field) != b[name].get(field):
                raise _refused(role, f"{field!r} of the delegation {name} is changed")
    known = {name: item for name, item in b.items() if name in a}
    found += _key_changes(before["keys"], after["keys"], a, known)
    return found


def _key_changes(
    old_keys: dict[str, Any],
    new_keys: dict[str, Any],
    old_roles: dict[str, Any],
    new_roles: dict[str, Any],
) -> list[Change]:
    for keyid in set(old_keys) & set(new_keys):
        if old_keys[keyid] != new_keys[keyid]:
            raise _refused("keys", f"{keyid[:12]} gets another content")
    found = []
    for name in sorted(set(old_roles) | set(new_roles)):
        a, b = old_roles.get(name), new_roles.get(name)
        if a is None or b is None:
            raise _refused(name, "a role is added or removed")
        for keyid in sorted(set(a["keyids"]) | set(b["keyids"])):
            if keyid not in a["keyids"]:
                text = f"{name}: key {keyid[:12]} of {_owner(new_keys, keyid)} is ADDED"
                found.append(Change("key added", name, text))
            elif keyid not in b["keyids"]:
                text = f"{name}: key {keyid[:12]} of {_owner(old_keys, keyid)} is REVOKED"
                found.append(Change("key removed", name, text))
        if a["threshold"] != b["threshold"]:
            text = f"{name}: threshold {a['threshold']} → {b['threshold']}"
            found.append(Change("threshold", name, text))
        others = {"keyids", "threshold"}
        if {k: v for k, v in a.items() if k not in others} != {
            k: v for k, v in b.items() if k not in others
        }:
            raise _refused(name, "more than its keys and threshold is changed")
    return found


def _check_keys(part: dict[str, Any]) -> None:
    """Whether every key that a root or a delegation brings is the one that its id says: signers
    compare ids, and the form does not bind them to what they name."""
    roles = part.get("roles", {})
    named = list(roles.values()) if isinstance(roles, dict) else roles
    words = [item.get("name", "") for item in named]
    words += [keyid for item in named for keyid in item["keyids"]]
    if not all(isinstance(word, str) for word in words):
        raise _refused("keys", "a name or a key id is no text")
    for keyid, content in part.get("keys", {}).items():
        try:
            true = true_id(Key.from_dict(keyid, dict(content)))
        except (ValueError, KeyError, TypeError, AttributeError):
            true = ""
        if keyid != true:
            raise _refused("keys", f"what {keyid[:12]} names is not the key of this id")


def _owner(keys: dict[str, Any], keyid: str) -> str:
    return str(keys.get(keyid, {}).get(OWNER_FIELD, "")) or "the manager"


def _refused(role: str, why: str) -> TrustError:
    return TrustError(
        f"signing event refused: {role}: {why}",
        hint="do not sign it; find out who changed the event",
        docs="explanation/trust.md",
    )


def _utc(at_s: float) -> str:
    """As TUF writes it, so that the dates of one review look alike."""
    return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
