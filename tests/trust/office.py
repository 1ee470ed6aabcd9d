"""A repository whose keys people hold, and a device that follows it."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from edge_agent.trust.verifier import TrustStore
from fleet.repository.ceremony import Ceremony
from fleet.repository.key_files import HeldKey, new_key_file, open_key_file
from fleet.repository.signer_desk import SignerDesk
from fleet.repository.signing_event import SigningEvent
from fleet.repository.tuf_repository import Repository
from tests.trust.bundle_maker import make_bundle
from tests.trust.tuf_simulator import NOW_S

PASSPHRASE = "correct horse battery"


class Office:
    """A repository whose keys ada, bob and cy hold, two of three; and a device."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.now_s = NOW_S
        self.first_root = b""
        self.repository.initialise()
        self.first_root = self.repository.root_bytes()
        self.publish("1.0.0")
        self.people = {name: self.person(name) for name in ("ada", "bob", "cy")}
        self.ceremony.adopt([item.public for item in self.people.values()], 2)
        self.sign("ada", "bob")

    @property
    def repository(self) -> Repository:
        return Repository(self.home / "state", "shop", lambda: self.now_s)

    @property
    def ceremony(self) -> Ceremony:
        return Ceremony(self.repository, "olga")

    def person(self, name: str) -> HeldKey:
        new_key_file(self.home, name, PASSPHRASE)
        return open_key_file(self.home / f"{name}.key", PASSPHRASE)

    def publish(self, version: str) -> Any:
        path = self.home / version
        made = path if path.exists() else make_bundle(path, version=version).path
        return self.repository.publish(made)

    def event(self) -> SigningEvent:
        (event,) = self.repository.archive.events.all()
        return event

    def desk(self, name: str) -> SignerDesk:
        return SignerDesk(self.home / f"memory-{name}", self.now_s)

    def signed_by(self, name: str, event: SigningEvent) -> SigningEvent:
        desk = self.desk(name)
        review = desk.review(event, trust=self.first_root)
        return desk.sign(review, self.people[name])[0]

    def sign(self, *names: str) -> None:
        event = self.event()
        for name in names:
            event = self.signed_by(name, event)
        assert self.ceremony.submit(event).committed

    def device(self, line: str = "digits") -> set[str]:
        store = TrustStore(self.home / "device", root=self.first_root)
        return set(store.verify(self.repository.metadata_set(line), reference_s=self.now_s).targets)


def moved(office: Office, home: Path) -> Office:
    shutil.copytree(office.home, home, symlinks=True)
    copied = copy.copy(office)
    copied.home = home
    copied.people = dict(office.people)
    return copied
