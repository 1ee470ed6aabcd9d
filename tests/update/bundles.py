"""Small versions for the simulated device. How one behaves stands in its weights file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.update.order import Order, Origin
from edge_contract.codec import encode_json
from edge_contract.digest import digest_of
from edge_contract.health import HealthSpec
from edge_contract.manifest import WEIGHT, WEIGHT_CONFIG, ConfigDetail, build_manifest, describe
from edge_contract.model import Lineage, ModelManifest, TensorSpec, Variant
from edge_contract.preprocess import PreprocessSpec

HARDWARE = "sim-board"
SPEC = HealthSpec(
    trial_s=5.0, frames_min=20, latency_ratio_max=3.0, restarts_max=1, deadline_s=60.0
)


@dataclass(frozen=True)
class Version:
    """One bundle. ``behaviour``: good, wrong (golden vectors differ), slow, dies (on loading)."""

    version: str
    behaviour: str
    digest: str
    blobs: dict[str, bytes] = field(repr=False)

    def order(
        self,
        seq: int,
        *,
        health: HealthSpec = SPEC,
        deadline_ts: float = 0.0,
        origin: Origin = "fleet",
    ) -> Order:
        """An order for this version."""
        return Order(
            epoch=1,
            seq=seq,
            digest=self.digest,
            line="digits",
            version=self.version,
            rollout=f"r{seq}",
            health=health,
            deadline_ts=deadline_ts,
            origin=origin,
        )


def make_version(version: str, behaviour: str = "good") -> Version:
    """Build a bundle with two variants, of which this device needs one."""
    variants = [
        Variant(
            target=t, runtime="onnxruntime", scheme="u8s8", file=f"{t}.onnx", golden=f"{t}.gold"
        )
        for t in (HARDWARE, "other-board")
    ]
    model = ModelManifest(
        name="digits",
        version=version,
        task="classification",
        inputs=[TensorSpec(name="x", dtype="float32", shape=[None, 4])],
        outputs=[TensorSpec(name="y", dtype="float32", shape=[None, 2])],
        labels=["a", "b"],
        preprocess=PreprocessSpec(),
        variants=variants,
        lineage=Lineage(
            source_digest="", calibration_digest="", test_digest="", tools={}, options={}
        ),
    )
    files: dict[str, tuple[str, bytes]] = {"model.json": (WEIGHT_CONFIG, encode_json(model))}
    for variant in variants:
        weights = f"{behaviour} {version} {variant.target} ".encode() * 40
        files[variant.file] = (WEIGHT, weights)
        files[variant.golden] = (WEIGHT_CONFIG, b"golden " + version.encode())
    files["drift-reference.msgpack"] = (WEIGHT_CONFIG, b"the same in every version")
    layers = [describe(data, media, path) for path, (media, data) in files.items()]
    manifest, config = build_manifest("digits", version, layers, ConfigDetail())
    blobs = {digest_of(data): data for data in (manifest, config, *(d for _, d in files.values()))}
    return Version(version, behaviour, digest_of(manifest), blobs)


def whole_digest(slot: Path) -> str | None:
    """What a slot directory holds, by its bytes alone; None unless it is whole and of one piece.

    Written without the code under test: it re-reads the bundle format from scratch.
    """
    try:
        manifest = (slot / "manifest.json").read_bytes()
        layers = json.loads(manifest)["layers"]
        files = {
            layer["annotations"]["org.cncf.model.filepath"]: layer["digest"] for layer in layers
        }
        needed = {"model.json", f"{HARDWARE}.onnx", f"{HARDWARE}.gold", "drift-reference.msgpack"}
        for path in needed:
            data = (slot / "files" / path).read_bytes()
            if "sha256:" + hashlib.sha256(data).hexdigest() != files[path]:
                return None
    except (OSError, ValueError, KeyError):
        return None
    return "sha256:" + hashlib.sha256(manifest).hexdigest()
