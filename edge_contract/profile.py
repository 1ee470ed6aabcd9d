"""What a device profile says about one kind of board (``device_configs/*.toml``)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edge_contract.model import Int8Scheme, Runtime

ProfileId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
_Count = Annotated[int, msgspec.Meta(ge=1, le=1024)]
_Megabytes = Annotated[int, msgspec.Meta(ge=1)]

CpuFeature = Literal["neon", "crc32", "fp16", "dotprod", "avx2"]
"""Instructions that matter to int8 kernels. ``dotprod``: four int8 products and their sum in one
(Arm's SDOT and UDOT)."""


class Accelerator(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A unit beside the CPU that runs int8 models through a runtime of its own.

    sparsity: whether it gains from 2 zeros in every 4 weights.
    dla_cores: deep-learning accelerators beside the GPU.
    """

    unit: str
    runtime: Literal["tensorrt"]
    sparsity: bool = False
    dla_cores: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0


class DeviceProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of device.

    runtime: what reads the model: ``onnxruntime`` ONNX files, ``litert`` .tflite files. A build
        may be told otherwise (``--format``).
    scheme: the int8 scheme of ONNX files: ``s8s8`` per-channel for ARM, ``u8s8`` for x86-64,
        ``s8s8-symmetric`` where an accelerator wants zero points 0 and float biases.
    memory_mb: of the smallest model of the board that is sold; a budget, not a wish.
    threads: intra-op threads for inference.
    channel_step: channel counts that are multiples of this get blocked kernels.
    cpu, cores, features: the CPU's name, its cores, its instructions.
    qemu_cpu: the CPU model of qemu that behaves like it; empty where none does.
    accelerator: what runs the model where the runtime offers it; the CPU runs it where not.
    caveat: what a user of this board must know before anything else.
    sources: where each figure came from, by the name of its field.
    """

    id: ProfileId
    title: str
    arch: Literal["aarch64", "x86_64"]
    runtime: Runtime
    scheme: Int8Scheme
    memory_mb: _Megabytes
    threads: _Count = 1
    channel_step: _Count = 8
    cpu: str = ""
    cores: _Count = 1
    features: list[CpuFeature] = []
    qemu_cpu: str = ""
    accelerator: Accelerator | None = None
    caveat: str = ""
    sources: dict[str, str] = {}

    def unsourced(self) -> list[str]:
        """Figures that the profile gives without saying where they came from."""
        described = {"id", "title", "arch", "caveat", "sources"}
        return [
            field.name
            for field in msgspec.structs.fields(self)
            if field.name not in described
            and getattr(self, field.name) not in ("", [], None)
            and not self.sources.get(field.name, "").strip()
        ]
