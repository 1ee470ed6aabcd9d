"""The image repository: publishing a bundle means signing its manifest into TUF metadata.

Root, targets, snapshot, timestamp, and one terminating delegation a model line with the paths
``{line}/*``. A target ``{line}/{version}`` *is* the bundle's manifest (length and SHA-256); its
blobs hang off it by digest. The top-level target ``directors.json`` names the keys that may
order an approved version onto a device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import Key
from tuf.api.metadata import Root, TargetFile, Targets

from edge_contract.codec import DOCUMENT_LIMIT_BYTES
from edge_contract.errors import ExitCode
from edge_contract.layout import BundleDir, write_durably
from edge_contract.manifest import Manifest, decode_manifest
from edge_contract.metadata import (
    MIN_RELEASE_FIELD,
    MetadataSet,
    encode_metadata_set,
    target_path,
    version_order,
)
from edge_contract.model import MODEL_FILE, ModelManifest, decode_model_manifest
from edge_contract.signing import ed25519_key, public_bytes
from fleet.errors import FleetError
from fleet.repository.archive import COMMITTED, DIRECTOR, Archive, Outcome, target_digest
from fleet.repository.bundle_intake import opened_bundle, read_model
from fleet.repository.edition_signer import (
    DEFAULT_LIFETIMES,
    Lifetimes,
    is_offline,
    role_keys,
)
from fleet.repository.keys import ManagerKeys
from fleet.repository.role_files import Edition, line_role

LIVE_VERSIONS_MAX = 16
"""Versions of a line that are approved at a time; publishing one more retires the oldest."""


@dataclass(frozen=True)
class PublishedVersion:
    """One approved version; ``digest`` is the bundle's, which is that of its manifest."""

    line: str
    version: str
    digest: str


@dataclass(frozen=True)
class Published(PublishedVersion):
    """What ``publish`` did.

    already: the very same bundle had been published before.
    outcome: whether it counts, or waits for signatures.
    """

    already: bool
    outcome: Outcome = COMMITTED


class Repository:
    """The repository of one fleet, below one directory.

    It begins with development keys, which sign at once. Where people hold the keys, ``publish``
    opens a signing event instead (``Outcome``); ``fleet.repository.ceremony`` carries it on.
    Any number of processes may open it; those that sign wait for one another.

    Args:
        state_dir: the manager's state; ``keys/``, ``tuf/`` and ``blobs/`` are kept there.
        fleet: the only fleet that the director key may give orders in.
        clock: unix seconds.
        lifetimes: how long signatures last.
    """

    def __init__(
        self,
        state_dir: Path,
        fleet: str,
        clock: Callable[[], float],
        lifetimes: Lifetimes = DEFAULT_LIFETIMES,
    ) -> None:
        self.archive = Archive(state_dir, fleet, clock, lifetimes)
        self._state_dir = state_dir
        self._clock = clock
        self._lifetimes = lifetimes
        self._files = self.archive.files
        self._blobs = self.archive.blobs
        self._signer = self.archive.signer
        self._manifests: dict[str, Manifest] = {}

    @property
    def keys(self) -> ManagerKeys:
        """The manager's own keys."""
        return self.archive.keys

    # --- signing ---------------------------------------------------------------------------

    def initialise(self) -> bool:
        """Make keys and the first, empty edition, if there is none yet; whether it did.

        Raises:
            FleetError: the repository belongs to another fleet, or a key is missing.
            TrustError: its metadata is not what was signed.
        """
        with self.archive.exclusive():
            return self.archive.initialise()

    def publish(
        self, bundle_path: Path, *, approval: Path | None = None, who: str = "edge-fleet"
    ) -> Published:
        """Approve a bundle: keep its blobs and sign its manifest into its model line.

        All or nothing: after a crash the version is published, or it is not and publishing it
        again is all that is needed. The same bundle again changes nothing and is a success.

        Args:
            bundle_path: the bundle's directory, or a tar of it.
            approval: where to write the line's metadata for an install without a fleet, once the
                version counts.
            who: asks for it, for the audit log.

        Raises:
            ContractError: not a bundle, or its documents disagree.
            TrustError: a blob's bytes do not have its digest.
            FleetError: this version was published with another digest, is below the line's floor,
                or a signing event of the line is open.
        """
        with self.archive.exclusive():
            self.archive.initialise()
            self._blobs.remove_leftovers()
            with opened_bundle(bundle_path, self._state_dir) as bundle:
                result = self._publish(bundle, read_model(bundle), who)
        if approval is not None and result.outcome.committed:
            write_durably(approval, encode_metadata_set(self.metadata_set(result.line)))
        return result

    def refresh_timestamp(self) -> bool:
        """Sign anew whatever has less than half of its life left; whether anything was.

        Only what the manager holds keys for; the rest is ``edge-fleet key status``'s to say.
        Call it every hour or so; after True the retained metadata of every line is outdated.

        Raises:
            FleetError: nothing was published yet, or a key is missing.
            TrustError: the metadata on disk is not what was signed.
        """
        with self.archive.exclusive():
            base = self._files.read()
            directors = self.archive.directors_bytes(base)
            changed: dict[str, Root | Targets] = {}
            waiting = {role for event in self.archive.events.all() for role in event.proposed}
            for role, signed, delegator in self._offline_roles(base):
                if is_offline(delegator, role) or role in waiting:
                    continue
                if self._signer.due(signed) or (role == Targets.type and self._directors_due(base)):
                    changed[role] = signed
            if Targets.type in changed:
                directors = self.extend_directors(base, base.targets.signed)
            online = (base.snapshot.signed, base.timestamp.signed)
            if not (changed or any(self._signer.due(signed) for signed in online)):
                return False
            base = self._files.read()  # ``changed`` holds what this one has no more
            self._signer.commit(base, self._signer.draft(base, changed, directors))
            return True

    def extend_directors(self, base: Edition, targets: Targets) -> bytes:
        """Give the director keys that are in force a fresh expiry; returns ``directors.json``."""
        directors = self.archive.directors(base)
        now_s = self._clock()
        directors.keys[:] = [
            self.archive.director_entry(key.public) for key in directors.keys if key.expires > now_s
        ] or [self.archive.director_entry(public_bytes(self.director_key()).hex())]
        return self.archive.name_directors(targets, directors)

    def director_key(self) -> Ed25519PrivateKey:
        """The key that signs ``desired`` documents, acks and answers: of those that the signed list
        names, the one listed last that is here.

        Raises:
            FleetError: nothing was published yet, or no key of the list is here.
        """
        listed = self.archive.directors(self._files.read()).keys
        keyids = [ed25519_key(bytes.fromhex(key.public)).keyid for key in listed]
        held = self.keys.held(DIRECTOR, keyids)
        if not held:
            if not any(self.keys.directory.glob("online-director-*.pem")):
                self.keys.load(DIRECTOR)  # says it where the file is missing
            raise FleetError(
                "no director key of this manager is in force: the signed list does not name one",
                hint="edge-fleet key rotate director",
                exit_code=ExitCode.AUTH,
                docs="how-to/stolen-key.md",
            )
        return max(held, key=lambda key: keyids.index(ed25519_key(public_bytes(key)).keyid))

    def director_epoch(self) -> int:
        """The epoch that offline keys signed; devices refuse orders of any other."""
        return self.archive.directors(self._files.read()).epoch

    def warnings(self) -> list[str]:
        """What to tell people wherever this repository is used: that development keys sign."""
        if not self._files.exists():
            return []
        root = self._files.read().root.signed
        by_people = all(is_offline(root, role) for role in (Root.type, Targets.type))
        return [] if by_people else [self.keys.warning]

    # --- reading ---------------------------------------------------------------------------

    def root_bytes(self) -> bytes:
        """The newest root: what a device is given once, by hand, to trust this repository."""
        return self._files.read().raw[Root.type]

    def timestamp_version(self) -> int:
        """The version of the newest timestamp, for ``Desired.timestamp_version_min``."""
        return self._files.read().timestamp.signed.version

    def lines(self) -> list[str]:
        """The model lines that have a published version."""
        return list(self._files.read().lines)

    def metadata_set(self, line: str) -> MetadataSet:
        """All that a device needs to check a version of ``line``, as one document for a file.

        Raises:
            FleetError: nothing of that line was published.
        """
        edition = self._files.read()
        return edition.metadata_set(line, self.archive.directors_bytes(edition))

    def roots(self) -> tuple[bytes, ...]:
        """Every root up to the one in force, version 1 first."""
        return self._files.read().roots

    def published(self) -> list[PublishedVersion]:
        """Every approved version, by line and then by semantic version; none before a publish."""
        if not self._files.exists():
            return []
        found = [
            PublishedVersion(line, path.removeprefix(target_path(line, "")), target_digest(target))
            for line, metadata in self._files.read().lines.items()
            for path, target in metadata.signed.targets.items()
        ]
        return sorted(found, key=lambda item: (item.line, version_order(item.version)))

    def floor(self, line: str) -> str:
        """The signed version below which no device installs anew; "" where a line has none."""
        metadata = self._files.read().lines.get(line) if self._files.exists() else None
        return _floor(metadata.signed) if metadata else ""

    def find(self, line: str, version: str) -> PublishedVersion:
        """One approved version.

        Raises:
            FleetError: it was not published; says what was.
        """
        published = self.published()
        for item in published:
            if (item.line, item.version) == (line, version):
                return item
        have = ", ".join(f"{item.line} {item.version}" for item in published) or "nothing"
        raise FleetError(
            f"{line} {version} is not published; published: {have}",
            hint="edge-fleet publish BUNDLE",
            exit_code=ExitCode.NOT_FOUND,
        )

    def manifest(self, digest: str) -> Manifest:
        """The manifest of a bundle whose blobs are kept here.

        Raises:
            FleetError: there is no such bundle.
        """
        if digest not in self._manifests:
            data = self._blobs.read(digest, DOCUMENT_LIMIT_BYTES)
            self._manifests[digest] = decode_manifest(data, where=f"bundle {digest}")
        return self._manifests[digest]

    def model(self, digest: str) -> ModelManifest:
        """``model.json`` of a bundle: which hardware it was compiled for, among others."""
        layer = self.manifest(digest).layer(MODEL_FILE)
        data = self._blobs.read(layer.digest, DOCUMENT_LIMIT_BYTES)
        return decode_model_manifest(data, where=f"bundle {digest}: {MODEL_FILE}")

    def blobs_of(self, manifest_digest: str) -> set[str]:
        """The digests of every blob of a bundle, its manifest among them."""
        manifest = self.manifest(manifest_digest)
        blobs = (manifest.config, *manifest.layers)
        return {manifest_digest, *(blob.digest for blob in blobs)}

    def blob_path(self, digest: str) -> Path:
        """The file of a blob.

        Raises:
            FleetError: there is no such blob.
        """
        return self._blobs.path(digest)

    # --- how -------------------------------------------------------------------------------

    def _publish(self, bundle: BundleDir, model: ModelManifest, who: str) -> Published:
        base = self._files.read()
        path = target_path(model.name, model.version)
        metadata = base.lines.get(model.name)
        before = metadata.signed.targets.get(path) if metadata else None
        known = before or self._retired(model.name, path)
        if known is not None and target_digest(known) != bundle.digest:
            raise FleetError(
                f"{model.name} {model.version} is published already with another content:"
                f" published {target_digest(known)}, this bundle is {bundle.digest}."
                " A version never changes",
                hint="build it under a new version: edge-compile build … --version",
                docs="explanation/trust.md",
            )
        # Also when it was published before: that heals a blob damaged on disk.
        for descriptor in (bundle.manifest.config, *bundle.manifest.layers):
            self._blobs.add_file(bundle.blob_path(descriptor.digest), descriptor.digest)
        self._blobs.add_bytes(bundle.manifest_bytes)
        published = Published(model.name, model.version, bundle.digest, already=before is not None)
        if before is not None:
            return published
        changed: dict[str, Root | Targets] = {}
        if metadata is None:
            self._delegate(base, model.name)
            changed[Targets.type] = base.targets.signed
        signed = metadata.signed if metadata else Targets()
        _require_above_floor(signed, model)
        signed.targets[path] = TargetFile.from_data(path, bundle.manifest_bytes, ["sha256"])
        _prune(signed, model.name)
        changed[line_role(model.name)] = signed
        outcome = self.archive.propose(
            "publish",
            changed,
            self.archive.directors_bytes(base),
            who=who,
            reason=f"{model.name} {model.version} {bundle.digest}",
        )
        return Published(model.name, model.version, bundle.digest, already=False, outcome=outcome)

    def _retired(self, line: str, path: str) -> TargetFile | None:
        """The target as it was when it was live; a retired version never changes either."""
        for metadata in self._files.history(line_role(line)):
            if path in metadata.signed.targets:
                return metadata.signed.targets[path]
        return None

    def _delegate(self, base: Edition, line: str) -> None:
        """Delegate a new line: to a key of its own, or to the people who hold the targets role."""
        role, targets, root = line_role(line), base.targets.signed, base.root.signed
        self.archive.delegate(targets, role, [target_path(line, "*")])
        if not is_offline(root, Targets.type):
            targets.add_key(ed25519_key(public_bytes(self.keys.load_or_make(role))), role)
            return
        for key in role_keys(root, Targets.type):
            targets.add_key(Key.from_dict(key.keyid, key.to_dict()), role)
        named = targets.get_delegated_role(role)
        named.threshold = root.get_delegated_role(Targets.type).threshold

    def _offline_roles(self, base: Edition) -> list[tuple[str, Root | Targets, Root | Targets]]:
        """(role, its content, who names its keys)."""
        root, targets = base.root.signed, base.targets.signed
        found: list[tuple[str, Root | Targets, Root | Targets]] = [
            (Root.type, root, root),
            (Targets.type, targets, root),
        ]
        lines = base.lines.items()
        return found + [(line_role(line), item.signed, targets) for line, item in lines]

    def _directors_due(self, edition: Edition) -> bool:
        keys = self.archive.directors(edition).keys
        soonest = min((key.expires for key in keys), default=0.0)
        return soonest - self._clock() < self._lifetimes.director_s / 2


def _floor(line: Targets) -> str:
    return str(line.unrecognized_fields.get(MIN_RELEASE_FIELD, ""))


def _require_above_floor(line: Targets, model: ModelManifest) -> None:
    floor = _floor(line)
    if floor and version_order(model.version) < version_order(floor):
        raise FleetError(
            f"{model.name} {model.version} is below the line's floor {floor}: no device would"
            " install it",
            hint=f"edge-fleet line floor {model.name} VERSION, to lower it",
        )


def _prune(line: Targets, name: str) -> None:
    """Retire the oldest versions beyond ``LIVE_VERSIONS_MAX``: metadata stays small."""
    prefix = target_path(name, "")
    paths = sorted(line.targets, key=lambda path: version_order(path.removeprefix(prefix)))
    for path in paths[:-LIVE_VERSIONS_MAX]:
        del line.targets[path]
