"""Which role's keys are named where: by the root for the top roles, by the targets for the rest.

A delegation looks into the signed metadata of an edition, and changing it changes what the
edition holds in memory: the next version is drafted from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from securesystemslib.signer import Key
from tuf.api.metadata import Role, Root, Snapshot, Targets, Timestamp

from fleet.repository.role_files import Edition, line_role

ONLINE_ROLES = (Snapshot.type, Timestamp.type)
"""Roles whose keys the manager makes and holds itself, in every fleet."""


@dataclass(frozen=True)
class Delegation:
    """One role and the metadata that names its keys.

    file: the role of that metadata, root or targets.
    """

    role: str
    delegator: Root | Targets
    file: str

    @property
    def named(self) -> Role:
        """Ids of its keys, and how many of them have to sign."""
        return self.delegator.get_delegated_role(self.role)

    def replace_keys(self, keys: Sequence[Key], threshold: int) -> None:
        """Name these keys and no others."""
        named = self.named
        for keyid in list(named.keyids):
            self.delegator.revoke_key(keyid, self.role)
        for key in keys:
            self.delegator.add_key(Key.from_dict(key.keyid, key.to_dict()), self.role)
        named.threshold = threshold


def delegations(base: Edition) -> list[Delegation]:
    """Every role of an edition: the four of TUF, then what the targets delegate to."""
    root, targets = base.root.signed, base.targets.signed
    top = (Root.type, Targets.type, *ONLINE_ROLES)
    delegated = (targets.delegations.roles or {}) if targets.delegations else {}
    return [Delegation(role, root, Root.type) for role in top] + [
        Delegation(role, targets, Targets.type) for role in delegated
    ]


def offline_files(base: Edition) -> dict[str, Root | Targets]:
    """What people sign: role -> content of root, targets and every line."""
    files: dict[str, Root | Targets] = {
        Root.type: base.root.signed,
        Targets.type: base.targets.signed,
    }
    return files | {line_role(line): item.signed for line, item in base.lines.items()}


def sign_anew(base: Edition, role: str, changed: dict[str, Root | Targets]) -> None:
    """Put a role whose keys change into ``changed``: its file has to be signed by the new ones.

    Online roles are signed at every commit, and those of offline media at the next export.
    """
    signed = offline_files(base).get(role)
    if signed is not None:
        changed[role] = signed
