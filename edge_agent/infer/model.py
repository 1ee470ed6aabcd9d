"""A model slot's content, loaded: session, labels, golden vectors and drift reference together."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_contract.errors import ContractError
from edge_contract.golden import GoldenVectors, decode_golden
from edge_contract.model import MODEL_FILE, ModelManifest, decode_model_manifest
from edge_runtime.golden import GoldenResult, check_golden, from_tensor
from edge_runtime.session import ModelSession


class LoadedModel(msgspec.Struct, frozen=True, weakref=True):
    """A version that is in memory and warm. Immutable, so that a frame uses one or the other."""

    digest: str
    slot: str
    directory: Path
    manifest: ModelManifest
    session: ModelSession
    golden: GoldenVectors

    @property
    def version(self) -> str:
        """The semantic version, as telemetry names it."""
        return self.manifest.version

    def self_test(self) -> GoldenResult:
        """Run the golden vectors."""
        return check_golden(self.session, self.golden)


def load_model(directory: Path, digest: str, slot: str, hardware: str, threads: int) -> LoadedModel:
    """Load and warm the variant for ``hardware`` from a slot directory.

    Raises:
        ContractError: a document of the bundle is missing, malformed or not for this hardware.
        ModelRuntimeError: the runtime refuses the model.
    """
    manifest = decode_model_manifest(_read(directory / MODEL_FILE), where=f"slot {slot}")
    variant = manifest.variant_for(hardware)
    golden = decode_golden(_read(directory / variant.golden), where=f"slot {slot}")
    session = ModelSession(directory / variant.file, manifest, variant, threads)
    session.warm_up(from_tensor(golden.frames)[0])
    return LoadedModel(digest, slot, directory, manifest, session, golden)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ContractError(f"cannot read {path}: {error.strerror}") from error
