"""Opening a bundle to publish it: every blob checked, and its own documents agreeing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_contract.codec import DOCUMENT_LIMIT_BYTES, decode_json
from edge_contract.errors import ContractError
from edge_contract.layout import BundleDir, unpack_tar
from edge_contract.manifest import ModelConfig
from edge_contract.model import MODEL_FILE, ModelManifest, decode_model_manifest

_PREFIX = "incoming-"


@contextmanager
def opened_bundle(path: Path, scratch: Path) -> Iterator[BundleDir]:
    """The bundle at ``path``: an OCI layout directory, or a tar of one unpacked for the time.

    Args:
        path: the directory or the tar.
        scratch: where a tar may be unpacked, used by nobody else at the time.

    Raises:
        ContractError: not a bundle.
        TrustError: a blob's bytes do not have its digest.
    """
    if not path.is_file():
        bundle = BundleDir(path)
        bundle.verify()
        yield bundle
        return
    for left_by_a_crash in scratch.glob(f"{_PREFIX}*"):
        shutil.rmtree(left_by_a_crash, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=scratch) as directory:
        unpacked = Path(directory) / "bundle"
        unpack_tar(path, unpacked)
        bundle = BundleDir(unpacked)
        bundle.verify()
        yield bundle


def read_model(bundle: BundleDir) -> ModelManifest:
    """``model.json`` of a bundle, if it agrees with the ModelPack config and the layers.

    Raises:
        ContractError: it names another line or version than the config, or a file that the
            bundle does not hold.
    """
    model = decode_model_manifest(
        bundle.read_file(MODEL_FILE, DOCUMENT_LIMIT_BYTES), where=f"{bundle.path}: {MODEL_FILE}"
    )
    config = decode_json(
        bundle.read_blob(bundle.manifest.config.digest, DOCUMENT_LIMIT_BYTES),
        ModelConfig,
        what=f"{bundle.path}: ModelPack config",
        limit_bytes=DOCUMENT_LIMIT_BYTES,
    )
    said = (config.descriptor.name, config.descriptor.version)
    if said != (model.name, model.version):
        raise ContractError(
            f"{bundle.path}: the config says {said[0]} {said[1]}, {MODEL_FILE} says"
            f" {model.name} {model.version}; a device would refuse it",
            hint="build the bundle again with `edge-compile build`",
        )
    for variant in model.variants:
        bundle.manifest.layer(variant.file)
        bundle.manifest.layer(variant.golden)
    return model
