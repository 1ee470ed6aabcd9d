"""Write JSON Schemas of every JSON document and message into ``docs/protocols/schemas/``.

``python docs/protocols/generate_schemas.py`` writes them, ``--check`` exits 1 when one differs
from its type: the types in ``edge_contract`` are the source, the files are for other languages.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from edge_contract import (
    command,
    configuration,
    desired,
    manifest,
    media,
    messages,
    metadata,
    model,
    receipt,
    signed_time,
    telemetry,
)

SCHEMA_DIR = Path(__file__).parent / "schemas"

DOCUMENTS: dict[str, Any] = {
    "oci-manifest": manifest.Manifest,
    "modelpack-config": manifest.ModelConfig,
    "model": model.ModelManifest,
    "desired": desired.Desired,
    "directors": desired.Directors,
    "command": command.Command,
    "configuration": configuration.Configuration,
    "time-ask": signed_time.TimeAsk,
    "time-reply": signed_time.TimeReply,
    "media-order": media.MediaOrder,
    "media-set": media.MediaSet,
    "metadata-set": metadata.MetadataSet,
    "metadata-head": metadata.MetadataHead,
    "agent-state": messages.AgentState,
    "online": messages.Online,
    "update-status": messages.UpdateStatus,
    "event": messages.Event,
    "ack": messages.Ack,
    "enrol": messages.Enrol,
    "enrol-answer": messages.EnrolAnswer,
    "certificate-ask": messages.CertificateAsk,
    "certificate-answer": messages.CertificateAnswer,
    "record-refused": messages.RecordRefused,
    "blob-ask": messages.BlobAsk,
    "blob-refused": messages.BlobRefused,
    "delta-ask": messages.DeltaAsk,
    "delta-offer": messages.DeltaOffer,
    "receipt": receipt.Receipt,
    "telemetry-summary": telemetry.TelemetrySummary,
}


def schema_text(type_: Any) -> str:
    """The JSON Schema (2020-12) of one type, as it is written to disk."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(schema | msgspec.json.schema(type_), indent=2, sort_keys=True) + "\n"


def main() -> int:
    """Write or check; returns the exit code."""
    check = "--check" in sys.argv[1:]
    stale = []
    expected = {f"{name}.schema.json": schema_text(type_) for name, type_ in DOCUMENTS.items()}
    for name, text in expected.items():
        path = SCHEMA_DIR / name
        if check:
            if not path.is_file() or path.read_text() != text:
                stale.append(name)
        else:
            SCHEMA_DIR.mkdir(exist_ok=True)
            path.write_text(text)
    stale += [p.name for p in SCHEMA_DIR.glob("*.json") if p.name not in expected]
    if stale:
        print(f"schemas out of step with edge_contract: {', '.join(sorted(stale))}")
        print("run: python docs/protocols/generate_schemas.py")
        return 1
    print(f"{len(expected)} schemas {'are in step' if check else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
