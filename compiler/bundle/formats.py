"""Which file a target gets: its format, runtime and scheme, and where it lies in the bundle."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, get_args

from compiler.errors import CompileError
from edge_contract.model import Int8Scheme, Variant
from edge_contract.profile import DeviceProfile

Format = Literal["onnx", "tflite"]
FORMATS: tuple[Format, ...] = get_args(Format)

_LITERT = "ai-edge-litert"
_GOLDEN = "golden.msgpack"


def planned_variant(profile: DeviceProfile, wanted: Format | None = None) -> Variant:
    """The variant that a build makes for ``profile``.

    Args:
        wanted: the format; ``None`` takes what the profile's runtime reads. A .tflite file is
            always ``s8s8`` on the CPU, whatever the profile says of ONNX files.
    """
    if wanted == "tflite" or (wanted is None and profile.runtime == "litert"):
        return Variant(
            target=profile.id,
            runtime="litert",
            scheme="s8s8",
            file="tflite-s8s8/model.tflite",
            golden=f"tflite-s8s8/{_GOLDEN}",
        )
    scheme: Int8Scheme = profile.scheme
    folder = f"onnx-{scheme}"
    return Variant(
        target=profile.id,
        runtime="onnxruntime",
        scheme=scheme,
        file=f"{folder}/model.onnx",
        golden=f"{folder}/{_GOLDEN}",
        accelerator=profile.accelerator.runtime if profile.accelerator else "",
        scale_cache=f"{folder}/scales.cache" if scheme == "s8s8-symmetric" else "",
    )


def format_of(variant: Variant) -> Format:
    """The format of a variant's file."""
    return "tflite" if variant.runtime == "litert" else "onnx"


def runtime_versions(variants: Iterable[Variant]) -> dict[str, str]:
    """Versions of the runtimes beside onnxruntime that a build of ``variants`` depends on.

    Raises:
        CompileError: one is missing.
    """
    if not any(variant.runtime == "litert" for variant in variants):
        return {}
    try:
        return {_LITERT: version(_LITERT)}
    except PackageNotFoundError as error:
        raise CompileError(
            f"a .tflite file is written and tried with {_LITERT}, which is not installed",
            hint="pip install 'wherry[compile]'",
        ) from error
