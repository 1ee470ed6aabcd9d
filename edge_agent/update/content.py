"""Which files of a bundle this device needs, and whether a directory holds them whole."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from edge_contract.codec import DOCUMENT_LIMIT_BYTES, decode_json
from edge_contract.digest import digest_of_chunks, require_digest
from edge_contract.errors import ContractError, TrustError
from edge_contract.layout import write_durably
from edge_contract.manifest import CODE, Descriptor, Manifest, check_layer_path, decode_manifest
from edge_contract.model import DRIFT_REFERENCE_FILE, MODEL_FILE, ModelManifest

MANIFEST_FILE = "manifest.json"
CONTENT_FILE = "content.json"
FILES_DIR = "files"
HOOKS_PREFIX = "hooks/"
"""Below it the bundle's hooks lie as the device's own do: ``hooks/v1/post-install``."""
_CHUNK_BYTES = 1 << 20


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """``content.json`` of a slot: what it holds. ``paths``: the bundle's files that are here."""

    schema: int = 1
    digest: str
    line: str
    version: str
    paths: list[str]


def needed_layers(manifest: Manifest, model: ModelManifest, hardware: str) -> list[Descriptor]:
    """The layers that a device of this hardware needs: its variant and what goes with it.

    Raises:
        ContractError: the bundle was not compiled for it, or lacks a file that it names.
    """
    variant = model.variant_for(hardware)
    paths = [MODEL_FILE, variant.file, variant.golden]
    if variant.scale_cache:
        paths.append(variant.scale_cache)
    if any(layer.path == DRIFT_REFERENCE_FILE for layer in manifest.layers):
        paths.append(DRIFT_REFERENCE_FILE)
    paths += [layer.path for layer in manifest.layers if is_hook(layer)]
    return [manifest.layer(path) for path in dict.fromkeys(paths)]


def is_hook(layer: Descriptor) -> bool:
    """Whether a layer is a hook that travels in the bundle. It is run only where the device's own
    configuration says so; it is here in any case, so that the slot is of one piece."""
    return layer.media_type == CODE and layer.path.startswith(HOOKS_PREFIX)


def copy_checked(source: Path, target: Path, descriptor: Descriptor) -> None:
    """Copy a blob and make it durable; what was written is what was checked.

    Raises:
        TrustError: its bytes are not those of the digest.
        OSError: missing, unreadable, or no space.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    state = hashlib.sha256()
    size_bytes = 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            size_bytes += len(chunk)
            if size_bytes > descriptor.size:
                break
            state.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    _require(descriptor, size_bytes, "sha256:" + state.hexdigest(), source)


def write_content(directory: Path, manifest_bytes: bytes, content: Content) -> None:
    """Complete a directory whose files were copied: the manifest and the list of its files."""
    write_durably(directory / MANIFEST_FILE, manifest_bytes)
    write_durably(directory / CONTENT_FILE, msgspec.json.encode(content))


def read_content(directory: Path) -> tuple[Content, Manifest]:
    """What the directory says it holds; the manifest is checked, the files are not.

    Raises:
        ContractError: it holds nothing, or its documents are damaged.
        TrustError: the manifest is not the one that it names.
    """
    try:
        listing = (directory / CONTENT_FILE).read_bytes()
        manifest_bytes = (directory / MANIFEST_FILE).read_bytes()
    except OSError as error:
        raise ContractError(f"{directory} holds no version: {error.strerror}") from error
    content = decode_json(
        listing, Content, what=f"{directory}/{CONTENT_FILE}", limit_bytes=DOCUMENT_LIMIT_BYTES
    )
    require_digest(manifest_bytes, content.digest, where=f"{directory}/{MANIFEST_FILE}")
    manifest = decode_manifest(manifest_bytes, where=str(directory))
    if MODEL_FILE not in content.paths:
        raise ContractError(f"{directory}/{CONTENT_FILE} lists no {MODEL_FILE}")
    return content, manifest


def verify_content(directory: Path, digest: str) -> None:
    """Check every file of the directory against the manifest of ``digest``.

    Raises:
        ContractError: something is missing, unreadable, or another version is there.
        TrustError: a file's bytes are not those of its digest.
    """
    content, manifest = read_content(directory)
    if content.digest != digest:
        raise TrustError(f"{directory}: expected {digest}, it holds {content.digest}")
    for path in content.paths:
        descriptor = manifest.layer(check_layer_path(path, where=str(directory)))
        _require_file(directory / FILES_DIR / path, descriptor)


def holds(file: Path, descriptor: Descriptor) -> bool:
    """Whether the file's bytes are those of the descriptor."""
    try:
        _require_file(file, descriptor)
    except ContractError:
        return False
    return True


def _require_file(file: Path, descriptor: Descriptor) -> None:
    try:
        with file.open("rb") as reader:
            size_bytes = os.fstat(reader.fileno()).st_size
            actual = digest_of_chunks(iter(lambda: reader.read(_CHUNK_BYTES), b""))
    except OSError as error:
        raise ContractError(f"cannot read {file}: {error.strerror}") from error
    _require(descriptor, size_bytes, actual, file)


def _require(descriptor: Descriptor, size_bytes: int, digest: str, where: Path) -> None:
    if size_bytes != descriptor.size:
        raise TrustError(
            f"{where}: expected {descriptor.size} bytes for {descriptor.path}, got"
            f" {size_bytes} or more"
        )
    if digest != descriptor.digest:
        raise TrustError(f"{where}: digest differs: expected {descriptor.digest}, got {digest}")
