"""The audit log: who did what, and no line of it changed, moved or cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_contract.errors import TrustError
from fleet.repository.audit_log import AuditLog, verify_audit
from fleet.repository.outsider import verify_approval
from tests.trust.office import Office
from tests.trust.tuf_simulator import NOW_S


@pytest.fixture
def audited(office: Office) -> tuple[bytes, list[bytes], list[str]]:
    office.publish("1.1.0")
    office.sign("ada", "bob")
    approval = office.repository.metadata_set("digits")
    chain = verify_approval(approval, office.first_root, office.now_s)
    keys = [bytes.fromhex(public) for public in chain.directors.audit_keys]
    return office.repository.archive.audit.read(), keys, [chain.audit_head]


def test_audit_log_says_who_did_what(audited: tuple[bytes, list[bytes], list[str]]) -> None:
    entries = verify_audit(*audited)
    assert [(item.who, item.action) for item in entries] == [
        ("edge-fleet", "publish"),
        ("olga", "propose"),
        ("olga", "keys"),
        ("edge-fleet", "propose"),
        ("olga", "publish"),
    ]
    assert "signed by" in entries[-1].detail


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("how", ["removed", "edited", "moved", "doubled"])
def test_audit_log_that_was_tampered_with_is_refused(
    how: str, at: int, audited: tuple[bytes, list[bytes], list[str]]
) -> None:
    data, keys, heads = audited
    lines = data.splitlines(keepends=True)
    if how == "removed":
        del lines[at]
    elif how == "edited":
        lines[at] = lines[at].replace(b'"who":"', b'"who":"x')
    elif how == "moved":
        lines.insert((at + 2) % 5, lines.pop(at))
    else:
        lines.insert(at, lines[at])
    with pytest.raises(TrustError, match="audit log"):
        verify_audit(b"".join(lines), keys, heads)


def test_audit_log_written_anew_with_a_stolen_key_does_not_match_signed_timestamps(
    audited: tuple[bytes, list[bytes], list[str]], office: Office, tmp_path: Path
) -> None:
    _, keys, heads = audited
    thief = office.repository.keys.load("audit")
    rewritten = AuditLog(tmp_path / "new.jsonl")
    for number in range(5):
        rewritten.append(thief, NOW_S, "nobody", "publish", str(number), "")
    with pytest.raises(TrustError, match="its end was removed or rewritten"):
        verify_audit(rewritten.read(), keys, heads)


def test_half_a_line_of_a_crash_is_written_over(office: Office) -> None:
    path = office.home / "state" / "audit.jsonl"
    before = path.read_bytes()
    path.write_bytes(before + b'{"number":99')
    office.publish("1.1.0")
    assert path.read_bytes().startswith(before)
    assert b'"number":99' not in path.read_bytes()
