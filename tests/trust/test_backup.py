"""Backups bring everything back, and a damaged one brings nothing."""

from __future__ import annotations

import io
import os
import resource
import signal
import tarfile
from pathlib import Path

import pytest

from fleet.errors import FleetError
from fleet.identity.authority import make_authority, open_authority
from fleet.identity.issuers import Issuers
from fleet.repository import backup
from fleet.repository.backup import make_backup, restore_backup
from fleet.repository.sealed import seal
from tests.trust.office import PASSPHRASE, Office
from tests.trust.tuf_simulator import NOW_S


def test_backup_brings_everything_back(office: Office) -> None:
    state = office.home / "state"
    make_authority(office.home / "ca", "shop", PASSPHRASE, now_s=NOW_S)
    authority = open_authority(office.home / "ca", PASSPHRASE)
    issuers = Issuers(state / "identity", "shop")
    signed = authority.sign_issuer(issuers.request(), now_s=NOW_S, days=180).encode()
    ca = (office.home / "ca" / "ca.crt.pem").read_bytes()
    issuers.install(signed, ca, now_s=NOW_S, revoked=[], distrust_old=False)
    make_backup(office.home / "state", office.home / "b", PASSPHRASE, blobs=True)
    assert (office.home / "b").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FleetError, match=r"holds .* already"):
        restore_backup(office.home / "b", office.home / "state", PASSPHRASE)
    before = office.repository.metadata_set("digits")
    (office.home / "state").rename(office.home / "gone")
    with pytest.raises(FleetError, match="wrong passphrase"):
        restore_backup(office.home / "b", office.home / "state", "something else")
    assert not (office.home / "state").exists()
    restore_backup(office.home / "b", office.home / "state", PASSPHRASE)
    assert office.repository.metadata_set("digits") == before
    assert office.publish("1.0.0").already
    # Without it the fleet would enrol whoever comes, and could renew no certificate.
    back = Issuers(state / "identity", "shop")
    assert back.installed
    assert [issuer.id for issuer in back.issuers] == [issuer.id for issuer in issuers.issuers]
    office.publish("1.1.0")
    office.sign("ada", "bob")


def test_restore_appears_in_one_step_or_not_at_all(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_backup(office.home / "state", office.home / "b", PASSPHRASE, blobs=True)
    new = office.home / "new"
    new.mkdir()
    (new / "lost+found").mkdir()
    with pytest.raises(FleetError, match=r"holds lost\+found already"):
        restore_backup(office.home / "b", new, PASSPHRASE)
    (new / "lost+found").rmdir()
    pid = os.fork()
    if pid == 0:

        def cut(unpacked: Path) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        restore_backup(office.home / "b", new, PASSPHRASE, settle=cut)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert list(new.iterdir()) == []
    (left,) = office.home.glob(".new.restore-*")
    assert list(left.rglob("*.pem")), "keys in the clear"
    (office.home / ".newer.restore-1").mkdir()
    link = office.home / "link"
    link.symlink_to(new)
    restore_backup(office.home / "b", link, PASSPHRASE)
    assert link.is_symlink()
    assert (new / "tuf" / "timestamp.json").is_file()
    assert [path.name for path in office.home.glob(".*restore*")] == [".newer.restore-1"]


def test_restore_on_a_full_disk_blames_the_disk_and_leaves_nothing(office: Office) -> None:
    make_backup(office.home / "state", office.home / "b", PASSPHRASE, blobs=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(FleetError, match=r"cannot unpack .* into .*: File too large"):
            restore_backup(office.home / "b", office.home / "new", PASSPHRASE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(office.home.glob("*new*"))
    with pytest.raises(FleetError, match="cannot read"):
        restore_backup(office.home / "nowhere", office.home / "new", PASSPHRASE)


def test_two_restores_at_once_do_not_clear_each_other_away(office: Office) -> None:
    make_backup(office.home / "state", office.home / "b", PASSPHRASE, blobs=True)

    def second(unpacked: Path) -> None:
        with pytest.raises(FleetError, match="another restore is under way"):
            restore_backup(office.home / "b", office.home / "new", PASSPHRASE)

    restore_backup(office.home / "b", office.home / "new", PASSPHRASE, settle=second)
    assert (office.home / "new" / "tuf" / "timestamp.json").is_file()


def test_backup_that_was_killed_leaves_no_keys_in_the_clear_for_good(office: Office) -> None:
    state = office.home / "state"
    pid = os.fork()
    if pid == 0:
        backup.seal = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        make_backup(state, office.home / "b", PASSPHRASE, blobs=True)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert len(list(state.rglob("backup.tar"))) == 1
    make_backup(state, office.home / "b", PASSPHRASE, blobs=True)
    assert list(state.rglob("backup*")) == []


def test_backups_that_lie_in_the_state_directory_stay_there(office: Office) -> None:
    state = office.home / "state"
    (state / "backup-old").mkdir()
    for target in (state / "backup-monday", state / "backup-old" / "b", state / "backup-tuesday"):
        make_backup(state, target, PASSPHRASE, blobs=False)
    names = {str(path.relative_to(state)) for path in state.rglob("*backup-*") if path.is_file()}
    assert names == {"backup-monday", "backup-tuesday"}
    assert (state / "backup-old" / "b").is_file()


def test_backup_takes_what_links_lead_to(office: Office) -> None:
    tuf = office.home / "state" / "tuf"
    tuf.rename(office.home / "elsewhere")
    tuf.symlink_to(office.home / "elsewhere")
    os.link(office.home / "state" / "audit.jsonl", office.home / "state" / "signing" / "same")
    make_backup(office.home / "state", office.home / "b", PASSPHRASE, blobs=True)
    restore_backup(office.home / "b", office.home / "new", PASSPHRASE)
    assert not (office.home / "new" / "tuf").is_symlink()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../escaped", tarfile.REGTYPE),
        ("/escaped", tarfile.REGTYPE),
        ("keys/../../escaped", tarfile.REGTYPE),
        ("keys/escaped", tarfile.SYMTYPE),
        ("keys/escaped", tarfile.LNKTYPE),
        ("keys/escaped", tarfile.FIFOTYPE),
        ("elsewhere", tarfile.REGTYPE),
        (".", tarfile.DIRTYPE),
        ("fleet/below-a-file", tarfile.REGTYPE),
        ("", b""),
    ],
)
def test_sealed_file_that_is_no_backup_of_ours_is_refused(
    name: str, kind: bytes, tmp_path: Path
) -> None:
    archive = io.BytesIO()
    if kind:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            first = tarfile.TarInfo("fleet")
            first.size = 5
            tar.addfile(first, io.BytesIO(b"shop\n"))
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    else:
        archive.write(b"no tar at all" * 100)
    archive.seek(0)
    with (tmp_path / "b").open("wb") as out:
        seal(archive, out, PASSPHRASE)
    with pytest.raises(FleetError, match=r"is refused|no backup that can be unpacked"):
        restore_backup(tmp_path / "b", tmp_path / "new" / "state", PASSPHRASE)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["b", "new"]


@pytest.mark.parametrize("damage", ["cut", "flip", "drop"])
def test_damaged_backup_is_refused_and_leaves_nothing(damage: str, office: Office) -> None:
    path = office.home / "b"
    make_backup(office.home / "state", path, PASSPHRASE, blobs=True)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-40:]
    elif damage == "flip":
        data[len(data) // 2] ^= 1
    else:
        del data[60:90]
    path.write_bytes(data)
    with pytest.raises(FleetError):
        restore_backup(path, office.home / "new", PASSPHRASE)
    assert not (office.home / "new").exists()
