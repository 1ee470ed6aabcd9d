"""A bundle's OCI manifest and CNCF ModelPack config (modelpack/model-spec), as types.

One raw layer a file. Neither holds a time, a path of the build machine or the bundle's own
digest, so the same inputs give the same bytes.
"""

from __future__ import annotations

import re

import msgspec

from edge_contract.codec import DOCUMENT_LIMIT_BYTES, decode_json, encode_json
from edge_contract.digest import check_digest, digest_of
from edge_contract.errors import ContractError

MANIFEST_MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_MEDIA_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
DOC = "application/vnd.cncf.model.doc.v1.raw"
CODE = "application/vnd.cncf.model.code.v1.raw"
LAYER_MEDIA_TYPES = frozenset({WEIGHT, WEIGHT_CONFIG, DOC, CODE})
FILEPATH = "org.cncf.model.filepath"

MAX_LAYERS = 256
MAX_LAYER_BYTES = 2 * 1024**3

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A pointer to a blob: what it is, which bytes, how many."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}

    @property
    def path(self) -> str:
        """The file's path inside the bundle (``org.cncf.model.filepath``)."""
        return self.annotations.get(FILEPATH, "")


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The OCI image manifest of one bundle. Its digest *is* the bundle's digest."""

    schema_version: int
    media_type: str
    artifact_type: str
    config: Descriptor
    layers: list[Descriptor]
    annotations: dict[str, str] = {}

    def layer(self, path: str) -> Descriptor:
        """The layer whose file path is ``path``.

        Raises:
            ContractError: there is none.
        """
        for layer in self.layers:
            if layer.path == path:
                return layer
        raise ContractError(
            f"bundle has no file {path!r}; it has {sorted(layer.path for layer in self.layers)}"
        )


class ConfigDescriptor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """General facts about the model (ModelPack ``descriptor``)."""

    name: str
    version: str
    family: str = ""


class ConfigDetail(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Technical facts about the model (ModelPack ``config``)."""

    format: str = ""
    precision: str = ""
    quantization: str = ""


class ModelFs(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The layers' uncompressed digests; with raw layers these are the blob digests."""

    type: str
    diff_ids: list[str]


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``application/vnd.cncf.model.config.v1+json``."""

    descriptor: ConfigDescriptor
    config: ConfigDetail
    modelfs: ModelFs


def check_layer_path(path: str, *, where: str) -> str:
    """``path`` if it is relative, plain and cannot leave the bundle.

    Raises:
        ContractError: absolute, empty, with ``..``, with odd characters, or too deep.
    """
    segments = path.split("/")
    if not path or len(segments) > 4 or any(not _SEGMENT.fullmatch(s) for s in segments):
        raise ContractError(
            f"{where}: file path {path[:120]!r} is refused; expected at most 4 names of letters,"
            " digits, '_', '.', '+', '-' joined by '/', none beginning with '.' or '-'"
        )
    return path


def decode_manifest(data: bytes, *, where: str) -> Manifest:
    """Parse and check a bundle's manifest.

    Raises:
        ContractError: not a ModelPack manifest of ours; says what is wrong and ``where``.
    """
    manifest = decode_json(data, Manifest, what=where, limit_bytes=DOCUMENT_LIMIT_BYTES)
    if manifest.schema_version != 2 or manifest.media_type != MANIFEST_MEDIA_TYPE:
        raise ContractError(
            f"{where}: expected an OCI image manifest (schemaVersion 2, {MANIFEST_MEDIA_TYPE}),"
            f" got schemaVersion {manifest.schema_version}, {manifest.media_type!r}"
        )
    if manifest.artifact_type != ARTIFACT_TYPE:
        raise ContractError(
            f"{where}: expected artifactType {ARTIFACT_TYPE}, got {manifest.artifact_type!r}"
        )
    if manifest.config.media_type != CONFIG_MEDIA_TYPE:
        raise ContractError(
            f"{where}: expected a config of {CONFIG_MEDIA_TYPE}, got {manifest.config.media_type!r}"
        )
    if not 0 < len(manifest.layers) <= MAX_LAYERS:
        raise ContractError(f"{where}: {len(manifest.layers)} layers, expected 1 to {MAX_LAYERS}")
    seen: set[str] = set()
    for layer in manifest.layers:
        check_layer_path(layer.path, where=where)
        if layer.path in seen:
            raise ContractError(f"{where}: the file {layer.path!r} stands twice in the bundle")
        seen.add(layer.path)
        if layer.media_type not in LAYER_MEDIA_TYPES:
            raise ContractError(
                f"{where}: layer {layer.path!r} has media type {layer.media_type!r},"
                f" expected one of {sorted(LAYER_MEDIA_TYPES)}"
            )
    for descriptor in (manifest.config, *manifest.layers):
        check_digest(descriptor.digest, where=f"{where}: {descriptor.path or 'config'}")
        if not 0 <= descriptor.size <= MAX_LAYER_BYTES:
            raise ContractError(
                f"{where}: {descriptor.path or 'config'} says {descriptor.size} bytes,"
                f" at most {MAX_LAYER_BYTES} are accepted"
            )
    return manifest


def describe(data: bytes, media_type: str, path: str | None = None) -> Descriptor:
    """The descriptor of ``data`` as a blob of ``media_type``, named ``path`` in the bundle."""
    annotations = {}
    if path is not None:
        annotations[FILEPATH] = check_layer_path(path, where="new layer")
    return Descriptor(
        media_type=media_type, digest=digest_of(data), size=len(data), annotations=annotations
    )


def build_manifest(
    name: str, version: str, layers: list[Descriptor], detail: ConfigDetail
) -> tuple[bytes, bytes]:
    """Canonical bytes of (manifest, config) for ``layers``, which are sorted by path."""
    ordered = sorted(layers, key=lambda layer: layer.path)
    config = encode_json(
        ModelConfig(
            descriptor=ConfigDescriptor(name=name, version=version, family=name),
            config=detail,
            modelfs=ModelFs(type="layers", diff_ids=[layer.digest for layer in ordered]),
        )
    )
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST_MEDIA_TYPE,
        artifact_type=ARTIFACT_TYPE,
        config=describe(config, CONFIG_MEDIA_TYPE),
        layers=ordered,
    )
    return encode_json(manifest), config
