"""Rows for people: the log, the audit of operators' orders, and what ingest refused."""

from __future__ import annotations

from typing import Literal

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update

from fleet.store.schema import audit, findings, log

FINDINGS_MAX = 1000
"""Rows of findings; strangers can invent device ids, so the oldest rows give way."""

Severity = Literal["info", "warning", "alarm"]
LogKind = Literal["rollout", "device", "drift", "finding", "repository", "audit"]


class LogRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log."""

    id: int
    at_s: float
    kind: LogKind
    subject: str
    severity: Severity
    text: str


class FindingRow(msgspec.Struct, frozen=True, kw_only=True):
    """What was refused, how often, and the last case of it."""

    device: str
    kind: str
    cls: str
    copies: int
    first_at_s: float
    last_at_s: float
    detail: str


def add_log(
    tx: Connection, at_s: float, kind: LogKind, subject: str, text: str, severity: Severity = "info"
) -> None:
    """Append one line."""
    tx.execute(
        insert(log).values(
            at_s=at_s, kind=kind, subject=subject[:120], severity=severity, text=text
        )
    )


def read_log(tx: Connection, *, kind: str, subject: str, limit: int) -> list[LogRow]:
    """The newest lines, newest first; "" for any kind or subject."""
    query = select(log).order_by(log.c.id.desc()).limit(limit)
    if kind:
        query = query.where(log.c.kind == kind)
    if subject:
        query = query.where(log.c.subject == subject)
    return [LogRow(**row) for row in tx.execute(query).mappings()]


def drop_log(tx: Connection, *, before_s: float, limit: int) -> int:
    """Delete at most ``limit`` lines, the oldest of those before ``before_s``; returns how many."""
    oldest = select(log.c.id).where(log.c.at_s < before_s).order_by(log.c.at_s).limit(limit)
    return tx.execute(delete(log).where(log.c.id.in_(oldest))).rowcount


def add_audit(
    tx: Connection, at_s: float, who: str, action: str, subject: str, reason: str, outcome: str
) -> None:
    """Append one order of an operator."""
    tx.execute(
        insert(audit).values(
            at_s=at_s, who=who, action=action, subject=subject, reason=reason, outcome=outcome
        )
    )


def add_finding(
    tx: Connection, *, device: str, kind: str, cls: str, detail: str, now_s: float
) -> bool:
    """Count one refusal; true when it is the first of its kind."""
    here = (findings.c.device == device, findings.c.kind == kind, findings.c.cls == cls)
    done = tx.execute(
        update(findings)
        .where(*here)
        .values(copies=findings.c.copies + 1, last_at_s=now_s, detail=detail)
    )
    if done.rowcount:
        return False
    count = tx.scalar(select(func.count()).select_from(findings)) or 0
    if count >= FINDINGS_MAX:
        oldest = select(func.min(findings.c.last_at_s)).scalar_subquery()
        tx.execute(delete(findings).where(findings.c.last_at_s == oldest))
    tx.execute(
        insert(findings).values(
            device=device,
            kind=kind,
            cls=cls,
            copies=1,
            first_at_s=now_s,
            last_at_s=now_s,
            detail=detail,
        )
    )
    return True


def read_findings(tx: Connection, device: str = "") -> list[FindingRow]:
    """Findings of one device or ("") of all, latest first."""
    query = select(findings).order_by(findings.c.last_at_s.desc())
    if device:
        query = query.where(findings.c.device == device)
    return [FindingRow(**row) for row in tx.execute(query).mappings()]


def count_findings(tx: Connection) -> int:
    """Refusals of the whole fleet."""
    return int(tx.scalar(select(func.sum(findings.c.copies))) or 0)
