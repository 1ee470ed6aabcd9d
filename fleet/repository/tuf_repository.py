"""The image repository: publishing a bundle means signing its manifest into TUF metadata.

Root, targets, snapshot, timestamp, and one terminating delegation a model line with the paths
``{line}/*``. A target ``{line}/{version}`` *is* the bundle's manifest (length and SHA-256); its
blobs hang off it by digest. The top-level target ``directors.json`` names the keys that may
order an approved version onto a device.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edge_contract.codec import DOCUMENT_LIMIT_BYTES, encode_json
from edge_contract.desired import DIRECTORS_TARGET, DirectorKey, Directors, decode_directors
from edge_contract.errors import ExitCode
from edge_contract.layout import BundleDir, write_durably
from edge_contract.manifest import Manifest, decode_manifest
from edge_contract.metadata import MetadataSet, encode_metadata_set, target_path
from edge_contract.model import MODEL_FILE, ModelManifest, decode_model_manifest
from edge_contract.signing import ed25519_key, public_bytes
from fleet.errors import FleetError
from fleet.repository.blob_store import BlobStore
from fleet.repository.bundle_intake import opened_bundle, read_model
from fleet.repository.edition_signer import DEFAULT_LIFETIMES, EditionSigner, Lifetimes
from fleet.repository.keys import DevelopmentKeys
from fleet.repository.role_files import Edition, RoleFiles, line_role

_log = logging.getLogger(__name__)
_DIRECTOR = "director"


@dataclass(frozen=True)
class PublishedVersion:
    """One approved version; ``digest`` is the bundle's, which is that of its manifest."""

    line: str
    version: str
    digest: str


@dataclass(frozen=True)
class Published(PublishedVersion):
    """What ``publish`` did. already: the very same bundle had been published before."""

    already: bool


class Repository:
    """The repository of one fleet, below one directory, signed with development keys.

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
        self._state_dir = state_dir
        self._fleet = fleet
        self._clock = clock
        self._lifetimes = lifetimes
        self._files = RoleFiles(state_dir / "tuf")
        self._blobs = BlobStore(state_dir / "blobs")
        self._manifests: dict[str, Manifest] = {}
        self.keys = DevelopmentKeys(state_dir / "keys")
        self._signer = EditionSigner(self._files, self.keys, clock, lifetimes)

    # --- signing ---------------------------------------------------------------------------

    def initialise(self) -> bool:
        """Make keys and the first, empty edition, if there is none yet; whether it did.

        Raises:
            FleetError: the repository belongs to another fleet, or a key is missing.
            TrustError: its metadata is not what was signed.
        """
        with self._exclusive():
            return self._initialise()

    def publish(self, bundle_path: Path, *, approval: Path | None = None) -> Published:
        """Approve a bundle: keep its blobs and sign its manifest into its model line.

        All or nothing: after a crash the version is published, or it is not and publishing it
        again is all that is needed. The same bundle again changes nothing and is a success.

        Args:
            bundle_path: the bundle's directory, or a tar of it.
            approval: where to write the line's metadata for an install without a fleet.

        Raises:
            ContractError: not a bundle, or its documents disagree.
            TrustError: a blob's bytes do not have its digest.
            FleetError: this version was published with another digest.
        """
        with self._exclusive():
            self._initialise()
            self._blobs.remove_leftovers()
            with opened_bundle(bundle_path, self._state_dir) as bundle:
                result = self._publish(bundle, read_model(bundle))
        if approval is not None:
            write_durably(approval, encode_metadata_set(self.metadata_set(result.line)))
        return result

    def refresh_timestamp(self) -> bool:
        """Sign anew whatever has less than half of its life left; whether anything was.

        Call it every hour or so; after True the retained metadata of every line is outdated.

        Raises:
            FleetError: nothing was published yet, or a key is missing.
            TrustError: the metadata on disk is not what was signed.
        """
        with self._exclusive():
            base = self._files.read()
            targets, directors = base.targets.signed, self._directors_bytes(base)
            changed: dict[str, Targets] = {}
            if self._signer.due(targets) or self._director_due(base):
                directors = self._name_director(targets)
                changed[Targets.type] = targets
            for line, metadata in base.lines.items():
                if self._signer.due(metadata.signed):
                    changed[line_role(line)] = metadata.signed
            root_due = self._signer.due(base.root.signed)
            online = (base.snapshot.signed, base.timestamp.signed)
            if not (changed or root_due or any(self._signer.due(signed) for signed in online)):
                return False
            if root_due:
                self._signer.renew_root(base.root.signed)
            self._signer.commit(base, changed, directors)
            return True

    def director_key(self) -> Ed25519PrivateKey:
        """The key that signs ``desired`` documents, acks and answers.

        Raises:
            FleetError: nothing was published yet, or the key is missing.
        """
        return self.keys.load(_DIRECTOR)

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
        """All that a device needs to check a version of ``line``, as one document.

        Raises:
            FleetError: nothing of that line was published.
        """
        edition = self._files.read()
        return edition.metadata_set(line, self._files.roots(), self._directors_bytes(edition))

    def published(self) -> list[PublishedVersion]:
        """Every approved version, by line and then by semantic version; none before a publish."""
        if not self._files.exists():
            return []
        found = [
            PublishedVersion(line, path.removeprefix(target_path(line, "")), _digest(target))
            for line, metadata in self._files.read().lines.items()
            for path, target in metadata.signed.targets.items()
        ]
        return sorted(found, key=lambda item: (item.line, _version_order(item.version)))

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

    def _initialise(self) -> bool:
        if self._files.exists():
            self._check_fleet(self._files.read())
            return False
        for role in (Root.type, Targets.type, Snapshot.type, Timestamp.type, _DIRECTOR):
            self.keys.load_or_make(role)
        if not self._files.roots():
            self._signer.write_first_root()
        targets = Targets(delegations=Delegations(keys={}, roles={}))
        directors = self._name_director(targets)
        self._signer.commit(None, {Targets.type: targets}, directors)
        _log.warning("%s", self.keys.warning)
        return True

    def _publish(self, bundle: BundleDir, model: ModelManifest) -> Published:
        base = self._files.read()
        path = target_path(model.name, model.version)
        metadata = base.lines.get(model.name)
        before = metadata.signed.targets.get(path) if metadata else None
        if before is not None and _digest(before) != bundle.digest:
            raise FleetError(
                f"{model.name} {model.version} is published already with another content:"
                f" published {_digest(before)}, this bundle is {bundle.digest}."
                " A version never changes",
                hint="build it under a new version: edge-compile build … --version",
                docs="explanation/trust.md",
            )
        # Also when it was published before: that heals a blob damaged on disk.
        for descriptor in (bundle.manifest.config, *bundle.manifest.layers):
            self._blobs.add_file(bundle.blob_path(descriptor.digest), descriptor.digest)
        self._blobs.add_bytes(bundle.manifest_bytes)
        if before is None:
            changed: dict[str, Targets] = {}
            if metadata is None:
                self._delegate(base.targets.signed, model.name)
                changed[Targets.type] = base.targets.signed
            signed = metadata.signed if metadata else Targets()
            signed.targets[path] = TargetFile.from_data(path, bundle.manifest_bytes, ["sha256"])
            changed[line_role(model.name)] = signed
            self._signer.commit(base, changed, self._directors_bytes(base))
        return Published(model.name, model.version, bundle.digest, already=before is not None)

    def _delegate(self, targets: Targets, line: str) -> None:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        role = line_role(line)
        targets.delegations.roles[role] = DelegatedRole(
            role, [], 1, terminating=True, paths=[target_path(line, "*")]
        )
        targets.add_key(ed25519_key(public_bytes(self.keys.load_or_make(role))), role)

    def _name_director(self, targets: Targets) -> bytes:
        """Put a ``directors.json`` with a fresh expiry among the top-level targets."""
        key = DirectorKey(
            public=public_bytes(self.keys.load(_DIRECTOR)).hex(),
            fleets=[self._fleet],
            lines=["*"],
            expires=float(int(self._clock() + self._lifetimes.director_s)),
        )
        data = encode_json(Directors(keys=[key]))
        self._blobs.add_bytes(data)
        targets.targets[DIRECTORS_TARGET] = TargetFile.from_data(DIRECTORS_TARGET, data, ["sha256"])
        return data

    def _directors_bytes(self, edition: Edition) -> bytes:
        target = edition.targets.signed.targets[DIRECTORS_TARGET]
        return self._blobs.read(_digest(target), DOCUMENT_LIMIT_BYTES)

    def _director_due(self, edition: Edition) -> bool:
        keys = decode_directors(self._directors_bytes(edition)).keys
        return min(key.expires for key in keys) - self._clock() < self._lifetimes.director_s / 2

    def _check_fleet(self, edition: Edition) -> None:
        keys = decode_directors(self._directors_bytes(edition)).keys
        fleets = {fleet for key in keys for fleet in key.fleets}
        if self._fleet not in fleets:
            raise FleetError(
                f"{self._state_dir} is the repository of fleet {sorted(fleets)}, not of"
                f" {self._fleet!r}",
                hint="use another state directory, or the fleet's own name",
                exit_code=ExitCode.USAGE,
            )

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One signer at a time, over all processes; the lock goes with the process that held it."""
        self._state_dir.mkdir(parents=True, exist_ok=True)
        with (self._state_dir / "repository.lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.info("another process is signing in %s; waiting for it", self._state_dir)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _digest(target: TargetFile) -> str:
    return "sha256:" + target.hashes["sha256"]


def _version_order(version: str) -> tuple[list[int], bool, list[tuple[bool, int, str]]]:
    """Semantic Versioning's precedence (semver.org, 11) as a sort key."""
    core, _, pre = version.partition("-")
    identifiers = [
        (not part.isdigit(), int(part) if part.isdigit() else 0, part)
        for part in pre.split(".")
        if part
    ]
    return [int(part) for part in core.split(".")], not pre, identifiers
