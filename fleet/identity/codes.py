"""Making one-time codes. The secret is printed once and kept nowhere."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from edge_contract.enrol_code import ID_BYTES, SECRET_BYTES, EnrolCode, make_code
from edge_contract.errors import ExitCode
from edge_contract.signing import public_bytes
from fleet.errors import FleetError
from fleet.store.identity import CodeRow

CODES_MAX = 10_000
EXPIRES_MAX_S = 30 * 86400.0


def new_code(
    fleet: str,
    ca: bytes,
    *,
    who: str,
    now_s: float,
    expires_s: float,
    device: str = "",
    replaces: bool = False,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> tuple[EnrolCode, CodeRow]:
    """A code, and the row that recognises it.

    Args:
        ca: fingerprint of the CA.
        device: the only device that may use it, "" for any new name.
        replaces: it gives ``device`` a new key, for new hardware under the old name.
    """
    code = make_code(fleet, random(ID_BYTES + SECRET_BYTES), ca)
    return code, CodeRow(
        id=code.id,
        verifier=public_bytes(code.key()).hex(),
        device=device,
        replaces=replaces,
        created_by=who[:120],
        created_at_s=now_s,
        expires_at_s=now_s + expires_s,
    )


def check_wish(count: int, expires_s: float) -> None:
    """Refuse a number or a life that nobody means.

    Raises:
        FleetError: it is out of range.
    """
    if not 1 <= count <= CODES_MAX:
        raise FleetError(f"expected 1 to {CODES_MAX} codes, got {count}", exit_code=ExitCode.USAGE)
    if not 1 <= expires_s <= EXPIRES_MAX_S:  # NaN fails, too
        raise FleetError(
            f"expected a life of 1 s to 30 days, got {expires_s} s", exit_code=ExitCode.USAGE
        )
