"""Rows of codes, certificates and revoked keys."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from fleet.store.schema import (
    certificates,
    configurations,
    devices,
    enrol_codes,
    orders,
    revoked_keys,
)

CODES_KEPT_S = 30 * 86400.0
"""Codes are forgotten this long after they ended: their use stands in log and audit."""


class CodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One code; see ``schema.enrol_codes``."""

    id: str
    verifier: str
    device: str
    replaces: bool
    created_by: str
    created_at_s: float
    expires_at_s: float
    failures_count: int = 0
    used_key: str = ""
    used_device: str = ""
    used_at_s: float | None = None


class CertificateRow(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate; see ``schema.certificates``."""

    serial: str
    device: str
    public_key: str
    issuer: str
    not_before_s: float
    not_after_s: float
    chain: str
    revoked_at_s: float | None = None


def add_code(tx: Connection, row: CodeRow) -> None:
    """Store a new code; forgets those that ended long ago."""
    tx.execute(
        delete(enrol_codes).where(enrol_codes.c.expires_at_s < row.created_at_s - CODES_KEPT_S)
    )
    tx.execute(insert(enrol_codes).values(**msgspec.structs.asdict(row)))


def get_code(tx: Connection, code: str) -> CodeRow | None:
    """A code by its id."""
    found = tx.execute(select(enrol_codes).where(enrol_codes.c.id == code)).mappings()
    row = found.one_or_none()
    return None if row is None else CodeRow(**row)


def save_code(tx: Connection, row: CodeRow) -> None:
    """Write what became of a code."""
    tx.execute(
        update(enrol_codes).where(enrol_codes.c.id == row.id).values(**msgspec.structs.asdict(row))
    )


def add_certificate(tx: Connection, row: CertificateRow) -> None:
    """Store a certificate that was issued."""
    tx.execute(insert(certificates).values(**msgspec.structs.asdict(row)))


def newest_certificate(
    tx: Connection, device: str, public_key: str, now_s: float
) -> CertificateRow | None:
    """The certificate of a device and key that lasts longest, has begun and is not revoked. (One
    that begins later was signed while the manager's clock stood in the future.)"""
    query = (
        select(certificates)
        .where(
            certificates.c.device == device,
            certificates.c.public_key == public_key,
            certificates.c.revoked_at_s.is_(None),
            certificates.c.not_before_s <= now_s,
        )
        .order_by(certificates.c.not_after_s.desc())
        .limit(1)
    )
    row = tx.execute(query).mappings().one_or_none()
    return None if row is None else CertificateRow(**row)


def revoked_certificates(tx: Connection, now_s: float) -> list[tuple[str, str, float]]:
    """(issuer, serial, when) of what is revoked and would still be valid."""
    query = select(certificates.c.issuer, certificates.c.serial, certificates.c.revoked_at_s).where(
        certificates.c.revoked_at_s.is_not(None), certificates.c.not_after_s > now_s
    )
    return [(issuer, serial, at_s) for issuer, serial, at_s in tx.execute(query)]


def locked_out(tx: Connection, now_s: float) -> list[str]:
    """Devices that hold a revoked certificate which would still be valid, and no other: nobody may
    speak in their name now."""
    in_force = certificates.c.not_after_s > now_s
    revoked = certificates.c.revoked_at_s.is_not(None)
    welcome = select(certificates.c.device).where(in_force, ~revoked)
    query = (
        select(certificates.c.device)
        .where(in_force, revoked, certificates.c.device.not_in(welcome))
        .distinct()
        .order_by(certificates.c.device)
    )
    return list(tx.scalars(query))


def revoke_certificates(tx: Connection, device: str, now_s: float) -> int:
    """Revoke all of a device's certificates; how many were in force."""
    done = tx.execute(
        update(certificates)
        .where(certificates.c.device == device, certificates.c.revoked_at_s.is_(None))
        .values(revoked_at_s=now_s)
    )
    return int(done.rowcount)


def revoke_key(tx: Connection, public_key: str, device: str, now_s: float, reason: str) -> None:
    """Hear this key no more."""
    tx.execute(delete(revoked_keys).where(revoked_keys.c.public_key == public_key))
    tx.execute(
        insert(revoked_keys).values(public_key=public_key, device=device, at_s=now_s, reason=reason)
    )


def all_revoked_keys(tx: Connection) -> set[str]:
    """Every revoked key, hexadecimal."""
    return set(tx.scalars(select(revoked_keys.c.public_key)))


def remove_device(tx: Connection, device: str) -> None:
    """Forget a device's row, orders and settings; what it reported stays, as history."""
    tx.execute(delete(configurations).where(configurations.c.device == device))
    tx.execute(delete(orders).where(orders.c.device == device))
    tx.execute(delete(devices).where(devices.c.device == device))
