"""The ceremony and the three runbooks, word for word, in the folder of one who follows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.trust.verifier import TrustStore
from edge_contract.errors import TrustError
from edge_contract.metadata import MetadataSet
from fleet.clock import SystemClock
from fleet.repository.tuf_repository import Repository
from tests.docs.reader import ROOT, blocks
from tests.trust.bundle_maker import make_bundle


class Person:
    """A folder, a shell, and a device that was given the first root."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.clock = SystemClock()
        commands = home / "bin"
        commands.mkdir()
        script = commands / "edge-fleet"
        # One process that answers each command would be faster, but it would not be the command.
        script.write_text(
            f"#!/bin/sh\nexec {sys.executable} -c 'from fleet.cli import main; main()' \"$@\"\n"
        )
        script.chmod(0o755)
        make_bundle(home / "BUNDLE", version="1.1.0")
        make_bundle(home / "first")
        self.repository.publish(home / "first")
        self.device = TrustStore(home / "device", root=self.repository.root_bytes())
        self.check()

    @property
    def repository(self) -> Repository:
        return Repository(self.home / "state", "home", self.clock.wall_s)

    def follow(self, page: str) -> str:
        """Run every shell block of a page in one shell; its output."""
        steps = blocks(f"docs/how-to/{page}")
        assert steps
        return self.shell("\n".join(steps), page)

    def shell(self, script: str, what: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", script],
            cwd=self.home,
            env={
                **os.environ,
                "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "EDGE_FLEET_STATE": str(self.home / "state"),
                "EDGE_FLEET_PASSPHRASE": "a few words that nobody guesses",
            },
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{what}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def metadata(self) -> MetadataSet:
        return self.repository.metadata_set("digits")

    def check(self, metadata: MetadataSet | None = None) -> set[str]:
        """What the device approves now."""
        value = metadata or self.metadata()
        now_s = self.clock.wall_s()
        return set(TrustStore(self.home / "device").verify(value, reference_s=now_s).targets)


@pytest.fixture(scope="module")
def after_ceremony(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the ceremony was followed once; every test gets a copy."""
    person = Person(tmp_path_factory.mktemp("ceremony"))
    person.follow("ceremony.md")
    return person.home


@pytest.fixture
def person(after_ceremony: Path, tmp_path: Path) -> Person:
    home = tmp_path / "home"
    subprocess.run(["cp", "-a", str(after_ceremony), str(home)], check=True)
    copied = Person.__new__(Person)
    copied.home, copied.clock = home, SystemClock()
    return copied


def test_ceremony_leaves_only_online_keys_with_the_manager(person: Person) -> None:
    assert person.check() == {"1.0.0", "1.1.0"}
    names = {path.name.rsplit("-", 1)[0] for path in (person.home / "state/keys").glob("*")}
    assert names == {"online-director", "online-audit", "online-snapshot", "online-timestamp"}
    assert not person.repository.warnings()
    rows = json.loads(person.shell("edge-fleet key status --json", "status"))
    owners = {row["role"]: row["owners"] for row in rows}
    for role in ("root", "targets", "line-digits", "offline-snapshot", "offline-timestamp"):
        assert owners[role] == ["ada", "bob", "cy"]


def test_lost_key_runbook_replaces_it_everywhere(person: Person) -> None:
    person.follow("lost-key.md")
    assert person.check() == {"1.0.0", "1.1.0"}
    status = person.shell("edge-fleet key status", "status")
    assert "cy-2" in status
    assert "cy " not in status.replace("cy-2 ", "")


def test_stolen_key_runbook_leaves_the_thief_with_nothing(person: Person) -> None:
    stolen = person.home / "stolen-state"
    subprocess.run(["cp", "-a", str(person.home / "state"), str(stolen)], check=True)
    person.follow("stolen-key.md")
    assert person.check() == {"1.0.0", "1.1.0"}
    repository = person.repository
    assert repository.director_epoch() == 2
    # The thief's manager signs on with the keys that it took; a device that knows better refuses.
    thief = Repository(stolen, "home", lambda: person.clock.wall_s() + 20 * 86_400)
    for _ in range(2):
        assert thief.refresh_timestamp()
        thief = Repository(stolen, "home", lambda: person.clock.wall_s() + 35 * 86_400)
    with pytest.raises(TrustError, match="timestamp metadata refused"):
        person.check(thief.metadata_set("digits"))
    listed = repository.archive.directors(repository.archive.files.read()).keys
    assert len(listed) == 1
    assert repository.director_key().public_key() != thief.director_key().public_key()


def test_restored_backup_runbook_takes_the_lead_again(person: Person) -> None:
    backup, restore, leap, again = blocks("docs/how-to/restored-backup.md")
    person.shell(backup, "backup")
    (person.home / "BUNDLE").rename(person.home / "BUNDLE-1.1.0")
    make_bundle(person.home / "BUNDLE", version="1.2.0")
    person.shell(again, "a version that the backup does not know")
    newest = person.check()
    assert newest == {"1.0.0", "1.1.0", "1.2.0"}
    person.shell(restore, "restore")
    with pytest.raises(TrustError, match="rollback"):
        person.check()
    person.shell(leap, "leap")
    assert person.check() == {"1.0.0", "1.1.0"}
    person.shell(again, "publish it again")
    assert person.check() == newest
