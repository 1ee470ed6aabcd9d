"""Fill a slot with the files of a bundle that this device needs, every one checked on its way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_agent.errors import AgentError
from edge_agent.update.content import (
    FILES_DIR,
    Content,
    copy_checked,
    is_hook,
    needed_layers,
    write_content,
)
from edge_agent.update.order import Order
from edge_contract.codec import DOCUMENT_LIMIT_BYTES
from edge_contract.digest import require_digest
from edge_contract.layout import staged_directory
from edge_contract.manifest import Descriptor, decode_manifest
from edge_contract.model import MODEL_FILE, decode_model_manifest


class OpenVersion(msgspec.Struct, frozen=True):
    """A version whose documents were read and checked: what this device needs of it."""

    manifest_bytes: bytes
    content: Content
    layers: list[Descriptor]


def open_version(order: Order, blob: Callable[[str], Path], hardware: str) -> OpenVersion:
    """Read the documents of the order's bundle.

    Raises:
        ContractError: the bundle is malformed or not for this hardware.
        TrustError: a document's bytes are not those of its digest.
        AgentError: the bundle is another one than the order names.
        OSError: a blob is missing.
    """
    where = order.sentence()
    manifest_bytes = _document(blob, order.digest, f"manifest of {where}")
    manifest = decode_manifest(manifest_bytes, where=where)
    model_bytes = _document(blob, manifest.layer(MODEL_FILE).digest, f"{MODEL_FILE} of {where}")
    model = decode_model_manifest(model_bytes, where=where)
    if (model.name, model.version) != (order.line, order.version):
        raise AgentError(
            f"the bundle says that it is {model.name} {model.version}, the order says {where}"
        )
    layers = needed_layers(manifest, model, hardware)
    content = Content(
        digest=order.digest,
        line=model.name,
        version=model.version,
        paths=[layer.path for layer in layers],
    )
    return OpenVersion(manifest_bytes, content, layers)


def stage_version(
    target: Path,
    order: Order,
    blob: Callable[[str], Path],
    hardware: str,
    make_room: Callable[[], None],
) -> None:
    """Let ``target`` appear with the order's version in it: whole and durable, or not at all.

    Args:
        target: the slot's directory.
        order: names the manifest's digest, the line and the version.
        blob: where a blob lies, by its digest.
        hardware: the device's profile id.
        make_room: called once everything lies checked beside ``target``, to clear its name.

    Raises:
        ContractError: the bundle is malformed or not for this hardware.
        TrustError: a blob's bytes are not those of its digest.
        AgentError: the bundle is another one than the order names.
        OSError: no space, or a blob is missing.
    """
    version = open_version(order, blob, hardware)
    with staged_directory(target) as staging:
        for layer in version.layers:
            file = staging / FILES_DIR / layer.path
            copy_checked(blob(layer.digest), file, layer)
            if is_hook(layer):
                # Whatever the umask: a hook that others may write is never run.
                file.parent.chmod(0o755)
                file.chmod(0o755)
        write_content(staging, version.manifest_bytes, version.content)
        make_room()


def _document(blob: Callable[[str], Path], digest: str, where: str) -> bytes:
    with blob(digest).open("rb") as file:
        return require_digest(file.read(DOCUMENT_LIMIT_BYTES + 1), digest, where=where)
