"""A bundle against its approval, and what of it this device has to fetch. Pure."""

from __future__ import annotations

from edge_agent.trust.approved import ApprovedTarget
from edge_contract.digest import require_digest
from edge_contract.errors import TrustError
from edge_contract.manifest import Descriptor, Manifest, decode_manifest
from edge_contract.model import (
    DRIFT_REFERENCE_FILE,
    MODEL_FILE,
    ModelManifest,
    Variant,
    decode_model_manifest,
)


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


def first_blobs(manifest: Manifest) -> list[Descriptor]:
    """What to fetch first: small, and it says which other files this device needs."""
    return [manifest.config, manifest.layer(MODEL_FILE)]


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


def variant_blobs(
    manifest: Manifest, model: ModelManifest, hardware: str
) -> tuple[Variant, list[Descriptor]]:
    """The variant for this hardware, and every blob that the device needs to run it.

    The first blobs are among them; documentation, evidence, hooks and other boards' variants
    are not. A blob that two files share is listed once.

    Raises:
        ContractError: not compiled for this hardware, or a file is missing from the bundle.
    """
    variant = model.variant_for(hardware)
    names = [MODEL_FILE, variant.file, variant.golden]
    names += [DRIFT_REFERENCE_FILE] if _has(manifest, DRIFT_REFERENCE_FILE) else []
    needed = [manifest.config, *(manifest.layer(name) for name in names)]
    return variant, list({blob.digest: blob for blob in needed}.values())


def _has(manifest: Manifest, path: str) -> bool:
    return any(layer.path == path for layer in manifest.layers)
