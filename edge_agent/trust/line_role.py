"""Reading what the verified role of a model line says: nothing here checks a signature."""

from __future__ import annotations

from tuf.api.metadata import Targets

from edge_agent.trust.approved import ApprovedTarget
from edge_contract.errors import ContractError, TrustError
from edge_contract.metadata import MIN_RELEASE_FIELD, target_path, version_order


def delegated_role(targets: Targets, line: str) -> str:
    """The role that alone may approve versions of ``line``.

    Raises:
        TrustError: there is none.
    """
    if targets.delegations is not None:
        probe = target_path(line, "0.0.0")
        for name, terminating in targets.delegations.get_roles_for_target(probe):
            if terminating:
                return name
            break
    raise TrustError(
        f"the targets role delegates no model line {line!r}",
        hint="publish a version of it first, or correct the line in the device's configuration",
    )


def approved_targets(line_role: Targets, line: str) -> dict[str, ApprovedTarget]:
    """Targets of this line only: whatever else the role lists is not its to approve."""
    prefix = target_path(line, "")
    found: dict[str, ApprovedTarget] = {}
    for path, target in line_role.targets.items():
        version = path.removeprefix(prefix)
        digest = target.hashes.get("sha256")
        if path.startswith(prefix) and "/" not in version and digest is not None:
            found[version] = ApprovedTarget(version, f"sha256:{digest}", target.length)
    return found


def min_release(line_role: Targets, line: str) -> str:
    """The signed floor of the line.

    Raises:
        ContractError: malformed. It never reads as "no floor".
    """
    floor = line_role.unrecognized_fields.get(MIN_RELEASE_FIELD, "")
    if not isinstance(floor, str):
        raise ContractError(f"{line}: {MIN_RELEASE_FIELD} is not a version: {floor!r}")
    if floor:
        version_order(floor)
    return floor
