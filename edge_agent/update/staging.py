"""Fill a slot with the files of a bundle that this device needs, every one checked on its way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_agent.errors import AgentError
from edge_agent.update.content import (
    FILES_DIR,
    Content,
    copy_checked,
    needed_layers,
    write_content,
)
from edge_agent.update.order import Order
from edge_contract.codec import DOCUMENT_LIMIT_BYTES
from edge_contract.digest import require_digest
from edge_contract.layout import staged_directory
from edge_contract.manifest import decode_manifest
from edge_contract.model import MODEL_FILE, decode_model_manifest


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
    with staged_directory(target) as staging:
        for layer in layers:
            copy_checked(blob(layer.digest), staging / FILES_DIR / layer.path, layer)
        write_content(staging, manifest_bytes, content)
        make_room()


def _document(blob: Callable[[str], Path], digest: str, where: str) -> bytes:
    with blob(digest).open("rb") as file:
        return require_digest(file.read(DOCUMENT_LIMIT_BYTES + 1), digest, where=where)
