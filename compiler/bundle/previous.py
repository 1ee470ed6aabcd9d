"""The bundle that devices hold now, for a build that is to change as little of it as it can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compiler.bundle.facts import bundle_path, opened_bundle, read_manifest
from compiler.errors import CompileError
from compiler.plan.previous import Previous, read_previous
from edge_contract.errors import ExitCode
from edge_contract.model import Variant


@dataclass(frozen=True)
class PreviousBundle:
    """What ``--previous`` names.

    digest: of the bundle; "" where none was named.
    variants: by target, what its file holds.
    notes: why a target begins afresh all the same.
    """

    digest: str = ""
    variants: Mapping[str, Previous] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def load_previous(path: Path | None, name: str, variants: Sequence[Variant]) -> PreviousBundle:
    """The bundle, a tar of it or a build's directory at ``path``, for a build of ``variants``.

    Raises:
        CompileError: no bundle there, or one of another model line than ``name``.
        ContractError, TrustError: no readable bundle, or a damaged one.
    """
    if path is None:
        return PreviousBundle()
    place = bundle_path(path)
    if place is None:
        raise CompileError(
            f"--previous: no bundle at {path}",
            hint="a bundle is the directory `bundle/` that `edge-compile build` writes",
            exit_code=ExitCode.NOT_FOUND,
        )
    with opened_bundle(place) as bundle:
        manifest = read_manifest(bundle)
        if manifest.name != name:
            raise CompileError(
                f"--previous: {path} is of the line {manifest.name!r}, this build of {name!r}",
                hint="name a bundle of the same line, or leave --previous out",
            )
        held = {variant.target: variant for variant in manifest.variants}
        found: dict[str, Previous] = {}
        notes = []
        for variant in variants:
            before = held.get(variant.target)
            if before is None or (before.runtime, before.scheme) != (
                variant.runtime,
                variant.scheme,
            ):
                notes.append(f"{variant.target}: --previous has no variant of its kind")
            elif variant.runtime != "onnxruntime":
                notes.append(f"{variant.target}: --previous is for ONNX files, not for .tflite")
            else:
                found[variant.target] = read_previous(bundle.read_file(before.file))
        return PreviousBundle(bundle.digest, found, tuple(notes))
