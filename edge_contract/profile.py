"""What a device profile says about one kind of board (``device_configs/*.toml``)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

ProfileId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]


class DeviceProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of device.

    scheme: the int8 scheme that its runtime runs fastest and exactly: ``s8s8`` per-channel for
        ARM, ``u8s8`` for x86-64.
    threads: intra-op threads for inference.
    channel_step: channel counts that are multiples of this get blocked kernels.
    sources: where each figure came from.
    """

    id: ProfileId
    title: str
    arch: Literal["aarch64", "x86_64"]
    runtime: Literal["onnxruntime"]
    scheme: Literal["s8s8", "u8s8"]
    memory_mb: int
    threads: int = 1
    channel_step: int = 8
    sources: dict[str, str] = {}
