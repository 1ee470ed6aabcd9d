"""``sbom.json``: what made the bundle, as a CycloneDX 1.6 bill of materials.

Written by hand: cyclonedx-python-lib is well kept, but brings seven distributions for a document
of six fields. A test checks what is written here with that library's own validator.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from importlib.metadata import distribution, packages_distributions
from typing import Any

from edge_contract import __version__
from edge_contract.model import Lineage

SBOM_FILE = "sbom.json"
_NAMESPACE = "https://cyclonedx.org/schema/bom-1.6.schema.json"


def loaded_distributions() -> dict[str, str]:
    """Name -> version of every distribution that this process has a module of, this one first."""
    owners = packages_distributions()
    tops = {module.partition(".")[0] for module in sys.modules}
    names = {name for top in tops for name in owners.get(top, ())}
    others = sorted(names - {"wherry"}, key=str.lower)
    return {"wherry": __version__, **{name: distribution(name).version for name in others}}


def sbom(
    name: str,
    version: str,
    bundle_digest: str | None,
    lineage: Lineage,
    distributions: Mapping[str, str],
    python: str,
) -> dict[str, Any]:
    """The document: the model on top, its data and tools as components.

    No serial number and no time, both of which the standard leaves open: the same tools and
    inputs give the same document.

    Args:
        name, version: of the bundle.
        bundle_digest: ``sha256:...``, or ``None`` where the gate was not passed.
        distributions: from ``loaded_distributions``.
        python: the interpreter's version.
    """
    model = f"{name}@{version}"
    parts = [
        _component("machine-learning-model", "source-model", lineage.source_digest),
        _component("data", "calibration-data", lineage.calibration_digest),
        _component("data", "test-data", lineage.test_digest),
        {"type": "platform", "bom-ref": f"python@{python}", "name": "CPython", "version": python},
        *(
            {
                "type": "library",
                "bom-ref": f"pypi:{entry}",
                "name": entry,
                "version": number,
                "purl": f"pkg:pypi/{_normal(entry)}@{number}",
            }
            for entry, number in distributions.items()
        ),
    ]
    top = {"type": "machine-learning-model", "bom-ref": model, "name": name, "version": version}
    if bundle_digest is not None:
        top |= {"hashes": [_hash(bundle_digest)]}  # type: ignore[dict-item]
    return {
        "$schema": _NAMESPACE,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": top},
        "components": parts,
        "dependencies": [{"ref": model, "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def sbom_bytes(document: dict[str, Any]) -> bytes:
    """The file."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _component(type_: str, name: str, digest: str) -> dict[str, Any]:
    return {"type": type_, "bom-ref": name, "name": name, "hashes": [_hash(digest)]}


def _hash(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest.removeprefix("sha256:")}


def _normal(name: str) -> str:
    """A package's name as package URLs have it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
