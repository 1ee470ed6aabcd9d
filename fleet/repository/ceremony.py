"""Changing who may sign what: rotation and revocation of every key, floors, epochs, renewal.

Each of these is a proposal (``Archive.propose``): at once with development keys, a signing event
where people hold the keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from securesystemslib.signer import Key
from tuf.api.metadata import Root, Targets

from edge_contract.desired import Directors
from edge_contract.errors import ExitCode
from edge_contract.metadata import MIN_RELEASE_FIELD, target_path, version_order
from edge_contract.signing import ed25519_key, public_bytes
from fleet.errors import FleetError
from fleet.repository.archive import AUDIT, DIRECTOR, Outcome
from fleet.repository.delegations import ONLINE_ROLES, delegations, offline_files, sign_anew
from fleet.repository.key_files import PublicKeyFile
from fleet.repository.review import newest_approved
from fleet.repository.role_files import Edition, line_role
from fleet.repository.signing_event import Purpose, SigningEvent
from fleet.repository.tuf_repository import Repository

LEAP = 1000
"""How far ``leap`` goes: more versions than a fleet signs between two backups."""


class Ceremony:
    """Proposes changes of keys and of what they stand for.

    Args:
        repository: whose.
        who: proposes, for the audit log.
    """

    def __init__(self, repository: Repository, who: str) -> None:
        self._repository = repository
        self._archive = repository.archive
        self._who = who

    # --- keys ------------------------------------------------------------------------------

    def rotate(self, role: str, publics: Sequence[PublicKeyFile], threshold: int | None) -> Outcome:
        """Replace all keys of a role.

        Args:
            role: root, targets, a line's role, an offline role; or snapshot, timestamp, director
                and audit, whose new key the manager makes itself.
            publics: the new keys; none for the manager's own roles.
            threshold: how many of them have to sign; None: all but one, at least one.

        Raises:
            FleetError: no such role, keys for a role of the manager's, none for another's, or a
                threshold that the keys cannot reach.
        """
        if role in (DIRECTOR, AUDIT):
            _refuse_keys(role, publics)
            return self._add_director(role)
        if role in ONLINE_ROLES:
            _refuse_keys(role, publics)
            return self._set_keys(role, [self._fresh_key(role)], 1, f"rotate {role}")
        if not publics:
            raise FleetError(
                f"{role}: whose keys shall count?",
                hint=f"edge-fleet key rotate {role} --key alice.pub --key bob.pub --threshold 2",
                exit_code=ExitCode.USAGE,
            )
        count = max(1, len(publics) - 1) if threshold is None else threshold
        _check_threshold(role, publics, count)
        owners = ", ".join(public.owner for public in publics)
        return self._set_keys(
            role,
            [public.tuf_key() for public in publics],
            count,
            f"rotate {role} to {count} of {owners}",
        )

    def adopt(self, publics: Sequence[PublicKeyFile], threshold: int) -> Outcome:
        """From development keys to people's: root, targets, every line and the offline media roles.

        Snapshot and timestamp get new keys of the manager's in the same event.

        Raises:
            FleetError: a threshold that the keys cannot reach.
        """
        _check_threshold("every role", publics, threshold)
        keys = [public.tuf_key() for public in publics]
        with self._archive.exclusive():
            base = self._archive.files.read()
            changed: dict[str, Root | Targets] = {Root.type: base.root.signed}
            for item in delegations(base):
                if item.role in ONLINE_ROLES:
                    item.replace_keys([self._fresh_key(item.role)], 1)
                else:
                    item.replace_keys(keys, threshold)
                    sign_anew(base, item.role, changed)
            owners = ", ".join(public.owner for public in publics)
            return self._propose(base, "keys", changed, f"{threshold} of {owners} hold the keys")

    def revoke(self, keyid: str, replacement: PublicKeyFile | None) -> Outcome:
        """Take a key out of every role that names it, in one event.

        Args:
            keyid: the key's id, or the beginning of it (8 digits or more).
            replacement: a key that takes its place.

        Raises:
            FleetError: no role names it, or a role would lose its threshold.
        """
        with self._archive.exclusive():
            base = self._archive.files.read()
            director = self._find_director(base, keyid)
            if director:
                return self._drop_director(base, director)
            files = offline_files(base)
            changed: dict[str, Root | Targets] = {}
            found = ""
            for item in delegations(base):
                named = item.named
                matching = [known for known in named.keyids if _matches(known, keyid)]
                if not matching:
                    continue
                found = matching[0]
                item.delegator.revoke_key(found, item.role)
                if replacement is not None:
                    item.delegator.add_key(replacement.tuf_key(), item.role)
                elif item.role in ONLINE_ROLES:
                    item.delegator.add_key(self._fresh_key(item.role), item.role)
                if len(named.keyids) < named.threshold:
                    raise FleetError(
                        f"{item.role} would have {len(named.keyids)} keys and a threshold of"
                        f" {named.threshold}",
                        hint="give the new key with it: --replace-with NAME.pub",
                        exit_code=ExitCode.USAGE,
                    )
                changed[item.file] = files[item.file]
                sign_anew(base, item.role, changed)
            if not found:
                raise FleetError(
                    f"no role names a key {keyid!r}",
                    hint="edge-fleet key status",
                    exit_code=ExitCode.NOT_FOUND,
                )
            return self._propose(base, "keys", changed, f"revoke {found[:12]}")

    def raise_epoch(self) -> Outcome:
        """Begin the next epoch: every order of the one before is void, ``seq`` begins again."""
        with self._archive.exclusive():
            base = self._archive.files.read()
            before = self._archive.directors(base)
            after = msgspec.structs.replace(before, epoch=before.epoch + 1)
            return self._directors(base, after, f"epoch {after.epoch}")

    def forget_revoked(self) -> list[str]:
        """Remove private keys of this manager that no signed metadata names; their file names."""
        with self._archive.exclusive():
            base = self._archive.files.read()
            named = {keyid for item in delegations(base) for keyid in item.named.keyids}
            directors = self._archive.directors(base)
            # Of the audit's keys only the newest signs; the others are listed to verify with.
            publics = [key.public for key in directors.keys] + directors.audit_keys[-1:]
            named |= {ed25519_key(bytes.fromhex(public)).keyid for public in publics}
            waiting = self._archive.events.all()
            if waiting:
                raise FleetError(
                    f"the signing event {waiting[0].id!r} is open and may name any key",
                    hint="edge-fleet event list",
                )
            gone = self._archive.keys.forget_all_but(named)
            self._archive.record(self._who, "forget keys", "keys", ", ".join(gone) or "none")
            return gone

    # --- lines -----------------------------------------------------------------------------

    def floor(self, line: str, version: str, *, above_all: bool = False) -> Outcome:
        """Let no device install anything below ``version`` anew.

        Args:
            above_all: it may be above every approved version, which stops all new installs.

        Raises:
            FleetError: no such line, or above everything that is approved in it.
        """
        version_order(version)
        with self._archive.exclusive():
            base, signed = self._line(line)
            newest = newest_approved(signed.targets)
            if not above_all and (not newest or version_order(version) > version_order(newest)):
                raise FleetError(
                    f"{line}: a floor of {version} is above every approved version (the newest is"
                    f" {newest or 'none'}): no device could install anything of this line anew",
                    hint=f"publish {version} first; or, to stop new installs, say --yes",
                    exit_code=ExitCode.USAGE,
                )
            signed.unrecognized_fields[MIN_RELEASE_FIELD] = version
            reason = f"{line}: no new install below {version}"
            return self._propose(base, "floor", {line_role(line): signed}, reason)

    def retire(self, line: str, version: str) -> Outcome:
        """Withdraw the approval of one version.

        Raises:
            FleetError: no such line or version.
        """
        with self._archive.exclusive():
            base, signed = self._line(line)
            if signed.targets.pop(target_path(line, version), None) is None:
                raise FleetError(
                    f"{line} {version} is not approved (any more)",
                    hint="edge-fleet line list",
                    exit_code=ExitCode.NOT_FOUND,
                )
            reason = f"{line} {version} is retired"
            return self._propose(base, "retire", {line_role(line): signed}, reason)

    # --- time ------------------------------------------------------------------------------

    def renew(self) -> Outcome:
        """Fresh signatures for every offline role, with nothing else changed."""
        with self._archive.exclusive():
            base = self._archive.files.read()
            directors = self._repository.extend_directors(base, base.targets.signed)
            return self._archive.propose(
                "renew",
                offline_files(base),
                directors,
                who=self._who,
                reason="fresh signatures before the old expire",
            )

    def leap(self) -> Outcome:
        """Version numbers far ahead, after a backup older than what devices have seen."""
        with self._archive.exclusive():
            base = self._archive.files.read()
            changed = {k: v for k, v in offline_files(base).items() if k != Root.type}
            return self._archive.propose(
                "leap",
                changed,
                self._archive.directors_bytes(base),
                who=self._who,
                reason="a restored backup takes the lead again",
                leap=LEAP,
            )

    # --- events ----------------------------------------------------------------------------

    def submit(self, event: SigningEvent) -> Outcome:
        """Take a signer's signatures over; publish when the threshold is met."""
        with self._archive.exclusive():
            return self._archive.submit(event, who=self._who)

    def cancel(self, name: str) -> None:
        """Drop an open event."""
        with self._archive.exclusive():
            self._archive.cancel(name, who=self._who)

    # --- how -------------------------------------------------------------------------------

    def _set_keys(self, role: str, keys: Sequence[Key], threshold: int, reason: str) -> Outcome:
        with self._archive.exclusive():
            base = self._archive.files.read()
            known = {item.role: item for item in delegations(base)}
            if role not in known:
                raise FleetError(
                    f"no role {role!r}; there are {', '.join(known)}, director and audit",
                    exit_code=ExitCode.USAGE,
                )
            known[role].replace_keys(keys, threshold)
            file = known[role].file
            changed: dict[str, Root | Targets] = {file: offline_files(base)[file]}
            sign_anew(base, role, changed)
            return self._propose(base, "keys", changed, reason)

    def _fresh_key(self, role: str) -> Key:
        """A new key of the manager's own; its private half stays in the key directory."""
        return ed25519_key(public_bytes(self._archive.keys.make_online(role)))

    def _line(self, line: str) -> tuple[Edition, Targets]:
        base = self._archive.files.read()
        if line not in base.lines:
            have = ", ".join(base.lines) or "none"
            raise FleetError(f"no line {line!r}; there are {have}", exit_code=ExitCode.NOT_FOUND)
        return base, base.lines[line].signed

    def _propose(
        self,
        base: Edition,
        purpose: Purpose,
        changed: dict[str, Root | Targets],
        reason: str,
    ) -> Outcome:
        return self._archive.propose(
            purpose,
            changed,
            self._archive.directors_bytes(base),
            who=self._who,
            reason=reason,
        )

    def _directors(self, base: Edition, after: Directors, reason: str) -> Outcome:
        data = self._archive.name_directors(base.targets.signed, after)
        return self._archive.propose(
            "directors",
            {Targets.type: base.targets.signed},
            data,
            who=self._who,
            reason=reason,
        )

    def _add_director(self, role: str) -> Outcome:
        with self._archive.exclusive():
            base = self._archive.files.read()
            before = self._archive.directors(base)
            public = public_bytes(self._archive.keys.make_online(role)).hex()
            if role == AUDIT:
                after = msgspec.structs.replace(before, audit_keys=[*before.audit_keys, public])
            else:
                after = msgspec.structs.replace(before, keys=[self._archive.director_entry(public)])
            return self._directors(base, after, f"rotate {role}")

    def _find_director(self, base: Edition, keyid: str) -> str:
        for key in self._archive.directors(base).keys:
            if _matches(ed25519_key(bytes.fromhex(key.public)).keyid, keyid):
                return key.public
        return ""

    def _drop_director(self, base: Edition, public: str) -> Outcome:
        """Without the key, and with a new one of the manager's if none would be left."""
        before = self._archive.directors(base)
        left = [key for key in before.keys if key.public != public]
        if not left:
            fresh = public_bytes(self._archive.keys.make_online(DIRECTOR)).hex()
            left = [self._archive.director_entry(fresh)]
        after = msgspec.structs.replace(before, keys=left)
        keyid = ed25519_key(bytes.fromhex(public)).keyid
        return self._directors(base, after, f"revoke director {keyid[:12]}")


def _check_threshold(role: str, publics: Sequence[PublicKeyFile], threshold: int) -> None:
    if not 1 <= threshold <= len({public.keyid for public in publics}):
        raise FleetError(
            f"{role}: a threshold of {threshold} with {len(publics)} keys",
            exit_code=ExitCode.USAGE,
        )


def _matches(keyid: str, wanted: str) -> bool:
    return len(wanted) >= 8 and keyid.startswith(wanted)


def _refuse_keys(role: str, publics: Sequence[PublicKeyFile]) -> None:
    if publics:
        raise FleetError(
            f"{role} is the manager's own: it makes the new key itself",
            hint=f"edge-fleet key rotate {role}",
            exit_code=ExitCode.USAGE,
        )
