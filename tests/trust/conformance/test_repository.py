"""Our repository before python-tuf's own client, from the first root through every rotation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from fleet.repository.ceremony import Ceremony
from fleet.repository.key_files import HeldKey, new_key_file, open_key_file
from fleet.repository.signer_desk import SignerDesk
from fleet.repository.tuf_repository import Repository
from tests.trust.bundle_maker import make_bundle

PASSPHRASE = "correct horse battery"


class FromDisk(FetcherInterface):
    def __init__(self, state: Path) -> None:
        super().__init__()
        self._state = state

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self._state / url.removeprefix("disk:/")
        if not path.is_file():
            raise DownloadHTTPError("not found", 404)
        return iter([path.read_bytes()])


class Scene:
    """A repository, people with keys, and a stock client that was given the first root."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.repository = Repository(home / "state", "shop", time.time)
        self.repository.initialise()
        self.ceremony = Ceremony(self.repository, "olga")
        (home / "client").mkdir()
        self._root: bytes | None = self.repository.root_bytes()
        self.root = self._root

    def person(self, name: str) -> HeldKey:
        new_key_file(self.home, name, PASSPHRASE)
        return open_key_file(self.home / f"{name}.key", PASSPHRASE)

    def publish(self, version: str) -> None:
        self.repository.publish(make_bundle(self.home / version, version=version).path)

    def client(self) -> Updater:
        directory = str(self.home / "client")
        fetcher = FromDisk(self.home / "state")
        bootstrap, self._root = self._root, None
        client = Updater(directory, "disk:/tuf/", fetcher=fetcher, bootstrap=bootstrap)
        client.refresh()
        return client

    def sign(self, *people: HeldKey) -> None:
        for event in self.repository.archive.events.all():
            for person in people:
                desk = SignerDesk(self.home / f"memory-{person.owner}", time.time())
                event, _ = desk.sign(desk.review(event, trust=self.root), person)
            assert self.ceremony.submit(event).committed


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_empty_repository_is_valid(scene: Scene) -> None:
    assert scene.client().get_targetinfo("digits/1.0.0") is None


def test_every_version_is_found_and_no_other(scene: Scene) -> None:
    for version in ("1.0.0", "1.1.0"):
        scene.publish(version)
    client = scene.client()
    assert client.get_targetinfo("digits/1.0.0")
    assert client.get_targetinfo("digits/1.1.0")
    assert client.get_targetinfo("digits/1.2.0") is None
    assert client.get_targetinfo("faces/1.0.0") is None


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_rotating_an_online_key(role: str, scene: Scene) -> None:
    scene.publish("1.0.0")
    scene.client()
    assert scene.ceremony.rotate(role, [], None).committed
    scene.publish("1.1.0")
    assert scene.client().get_targetinfo("digits/1.1.0")


def change_root(scene: Scene) -> None:
    people = [scene.person("ada"), scene.person("bob")]
    scene.ceremony.rotate("root", [person.public for person in people], 2)
    scene.sign(*people)


def change_targets(scene: Scene) -> None:
    people = [scene.person("ada"), scene.person("bob")]
    scene.ceremony.rotate("targets", [person.public for person in people], 1)
    scene.sign(people[1])


def change_line(scene: Scene) -> None:
    person = scene.person("ada")
    scene.ceremony.rotate("line-digits", [person.public], 1)
    scene.sign(person)


def change_all_and_root_again(scene: Scene) -> None:
    people = [scene.person(name) for name in ("ada", "bob", "cy")]
    scene.ceremony.adopt([person.public for person in people], 2)
    scene.sign(people[0], people[2])
    scene.ceremony.revoke(people[0].public.keyid, scene.person("dee").public)
    scene.sign(people[1], people[2])
    scene.ceremony.renew()
    scene.sign(people[1], people[2])


@pytest.mark.parametrize(
    "change", [change_root, change_targets, change_line, change_all_and_root_again]
)
def test_client_follows_a_ceremony(change: Callable[[Scene], None], scene: Scene) -> None:
    scene.publish("1.0.0")
    scene.client()
    change(scene)
    scene.ceremony.rotate("timestamp", [], None)
    assert scene.client().get_targetinfo("digits/1.0.0")
