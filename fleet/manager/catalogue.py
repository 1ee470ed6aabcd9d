"""What is published, as the manager knows it: the repository, read again when it has changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge_contract.codec import encode_json
from edge_contract.errors import ExitCode, WherryError
from edge_contract.manifest import Descriptor, Manifest
from edge_contract.metadata import (
    MetadataHead,
    encode_metadata_set,
    parts_digest,
    retained,
)
from edge_contract.model import DRIFT_REFERENCE_FILE, MODEL_FILE
from edge_contract.reference import MAX_REFERENCE_BYTES, DriftReference
from fleet.errors import FleetError
from fleet.repository.tuf_repository import PublishedVersion, Repository
from fleet.views.manager import VersionView


@dataclass(frozen=True)
class Edition:
    """One state of the repository.

    metadata: line -> the payload of the retained ``_fleet/metadata/{line}``.
    heads: line -> the payload of ``_fleet/metadata/head.{line}``.
    roots: the payload of ``_fleet/metadata/root.{N}``, version 1 first.
    """

    timestamp_version: int = 0
    published: tuple[PublishedVersion, ...] = ()
    metadata: Mapping[str, bytes] = field(default_factory=dict)
    heads: Mapping[str, bytes] = field(default_factory=dict)
    roots: tuple[bytes, ...] = ()


class Catalogue:
    """Published versions and their bundles. Reading is safe from any thread.

    Args:
        repository: on disk; other processes publish into it.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._edition = Edition()
        self._hardware: dict[str, tuple[str, ...]] = {}
        self._references: dict[str, DriftReference | None] = {}

    @property
    def edition(self) -> Edition:
        """The state that was read last."""
        return self._edition

    def reload(self) -> bool:
        """Read the repository again if its timestamp has another version; whether it had.

        Raises:
            TrustError: the metadata on disk is not what was signed; the old edition stays.
        """
        version = self._repository.timestamp_version()
        if version == self._edition.timestamp_version:
            return False
        roots = self._repository.roots()
        metadata: dict[str, bytes] = {}
        heads: dict[str, bytes] = {}
        for line in self._repository.lines():
            value = retained(self._repository.metadata_set(line))
            metadata[line] = encode_metadata_set(value)
            head = MetadataHead(
                line=line,
                root_version=len(roots),
                digest=parts_digest(value),
            )
            heads[line] = encode_json(head)
        self._edition = Edition(
            timestamp_version=version,
            published=tuple(self._repository.published()),
            metadata=metadata,
            heads=heads,
            roots=roots,
        )
        return True

    def find(self, line: str, version: str) -> PublishedVersion:
        """One published version.

        Raises:
            FleetError: not published; says what is.
        """
        published = self._edition.published
        for item in published:
            if (item.line, item.version) == (line, version):
                return item
        have = ", ".join(f"{item.line} {item.version}" for item in published) or "nothing"
        raise FleetError(
            f"{line} {version} is not published; published: {have}",
            hint="edge-fleet publish BUNDLE",
            exit_code=ExitCode.NOT_FOUND,
        )

    def version_of(self, line: str, digest: str) -> str:
        """The version that a bundle was published as, "" for one that was not."""
        for item in self._edition.published:
            if (item.line, item.digest) == (line, digest):
                return item.version
        return ""

    def hardware(self, digest: str) -> tuple[str, ...]:
        """The device profiles that a published bundle was compiled for."""
        found = self._hardware.get(digest)
        if found is None:
            model = self._repository.model(digest)
            found = tuple(sorted(variant.target for variant in model.variants))
            self._hardware[digest] = found
        return found

    def manifest(self, digest: str) -> Manifest:
        """The manifest of a published bundle."""
        return self._repository.manifest(digest)

    def size_bytes(self, digest: str) -> int:
        """All blobs of a bundle together, the manifest among them."""
        manifest = self.manifest(digest)
        own = self._repository.blob_path(digest).stat().st_size
        blobs = {blob.digest: blob.size for blob in (manifest.config, *manifest.layers)}
        return own + sum(blobs.values())

    def download_bytes(self, digest: str, hardware: str) -> int:
        """What one device of ``hardware`` fetches at most: all but the other variants' files."""
        others = {
            name
            for variant in self._repository.model(digest).variants
            for name in (variant.file, variant.golden)
            if variant.target != hardware
        }
        mine = {
            name
            for variant in self._repository.model(digest).variants
            for name in (variant.file, variant.golden)
            if variant.target == hardware
        }
        manifest = self.manifest(digest)
        skipped = {
            layer.digest: layer.size
            for layer in manifest.layers
            if layer.path in others and layer.path not in mine
        }
        return self.size_bytes(digest) - sum(skipped.values())

    def needed_layers(self, digest: str, hardware: str) -> list[Descriptor]:
        """The layers that a device of ``hardware`` fetches besides the manifest."""
        model = self._repository.model(digest)
        mine = [v for v in model.variants if v.target == hardware]
        paths = {MODEL_FILE, DRIFT_REFERENCE_FILE, *(v.file for v in mine)}
        paths |= {v.golden for v in mine}
        return [layer for layer in self.manifest(digest).layers if layer.path in paths]

    def blobs_of(self, digest: str) -> set[str]:
        """The blobs that a device which is to run this bundle may ask for."""
        return self._repository.blobs_of(digest)

    def blob_path(self, digest: str) -> Path:
        """The file of a blob."""
        return self._repository.blob_path(digest)

    def reference(self, digest: str) -> DriftReference | None:
        """The drift reference in a bundle; None where the bundle or the reference is not here."""
        if digest not in self._references:
            try:
                layer = self.manifest(digest).layer(DRIFT_REFERENCE_FILE)
                data = self.blob_path(layer.digest).read_bytes()[: MAX_REFERENCE_BYTES + 1]
                self._references[digest] = DriftReference.decode(data)
            except WherryError:
                self._references[digest] = None
        return self._references[digest]

    def versions(self, running: Mapping[str, int]) -> list[VersionView]:
        """Every published version, newest of each line first; ``running`` counts by digest."""
        newest_first = list(reversed(self._edition.published))
        newest_first.sort(key=lambda item: item.line)
        return [
            VersionView(
                line=item.line,
                version=item.version,
                digest=item.digest,
                hardware=list(self.hardware(item.digest)),
                size_bytes=self.size_bytes(item.digest),
                running_on_count=running.get(item.digest, 0),
            )
            for item in newest_first
        ]
