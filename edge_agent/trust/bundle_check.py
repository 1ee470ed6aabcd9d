"""A bundle against its approval. Pure."""

from __future__ import annotations

from edge_agent.trust.approved import ApprovedTarget
from edge_contract.digest import require_digest
from edge_contract.errors import TrustError
from edge_contract.manifest import Descriptor, Manifest, decode_manifest
from edge_contract.model import MODEL_FILE, ModelManifest, decode_model_manifest


def check_manifest(data: bytes, target: ApprovedTarget) -> Manifest:
    """The manifest, if it is the approved one.

    Raises:
        TrustError: another length or digest than was approved.
        ContractError: approved, but malformed.
    """
    where = f"manifest of {target.version}"
    if len(data) != target.length_bytes:
        raise TrustError(f"{where}: approved with {target.length_bytes} bytes, got {len(data)}")
    return decode_manifest(require_digest(data, target.digest, where=where), where=where)


def check_blob(data: bytes, descriptor: Descriptor) -> bytes:
    """A blob's bytes, if they are what the manifest names.

    Raises:
        TrustError: another size or digest.
    """
    name = descriptor.path or "config"
    if len(data) != descriptor.size:
        raise TrustError(f"{name}: expected {descriptor.size} bytes, got {len(data)}")
    return require_digest(data, descriptor.digest, where=name)


def check_model(data: bytes, manifest: Manifest, *, line: str, version: str) -> ModelManifest:
    """``model.json``, if it is the bundle's own and of the approved line and version.

    Raises:
        TrustError: not the bundle's file, or a model of another line or version: a bundle
            approved under a name that is not its own.
        ContractError: malformed.
    """
    model = decode_model_manifest(
        check_blob(data, manifest.layer(MODEL_FILE)), where=f"{MODEL_FILE} of {line} {version}"
    )
    if (model.name, model.version) != (line, version):
        raise TrustError(
            f"the bundle approved as {line} {version} holds {model.name} {model.version}",
            hint="it was signed under a wrong name; build and publish it again",
        )
    return model
