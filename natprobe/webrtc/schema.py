"""The JSON Schema of a preflight, made from the types; ``python -m natprobe.webrtc.schema`` writes it to its file."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from natprobe.behaviour import Certainty
from natprobe.endpoint import Endpoint
from natprobe.webrtc.outcome import IceServerCheck
from natprobe.webrtc.readiness import SCHEMA, Preflight, Readiness

PATH = Path(__file__).with_name("preflight.schema.json")
NAT_REPORT = "../report.schema.json"

_STRINGS: dict[type, dict[str, Any]] = {
    Endpoint: {"type": "string", "description": "An address and a port."},
    datetime: {"type": "string", "format": "date-time"},
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of what ``Preflight.to_json`` returns; that of the NAT's report stands in its own file."""
    (check,), definitions = msgspec.json.schema_components([IceServerCheck], schema_hook=_STRINGS.__getitem__)
    definitions["IceServerCheck"]["required"] = list(definitions["IceServerCheck"]["properties"])
    readiness = {"enum": [None, *Readiness]}
    properties = {
        "schema": {"const": SCHEMA},
        "version": {"type": "string", "description": "Of the natprobe that measured."},
        "started": {"type": "string", "format": "date-time"},
        "duration_s": {"type": "number", "minimum": 0},
        "budget_s": {"type": "number", "exclusiveMinimum": 0},
        "verdict": {
            "type": "object",
            "properties": {
                "value": readiness,
                "certainty": {"enum": list(Certainty)},
                "reason": {"type": "string"},
            },
            "required": ["value", "certainty", "reason"],
            "if": {"properties": {"certainty": {"const": Certainty.NOT_DETERMINED}}},
            "then": {"properties": {"value": {"type": "null"}}},
            "else": {"properties": {"value": {"not": {"type": "null"}}}},
        },
        "advice": {"type": "array", "items": {"type": "string"}},
        "servers": {"type": "array", "items": check},
        "nat": {"anyOf": [{"$ref": NAT_REPORT}, {"type": "null"}]},
        "missing": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "By URL, and by `nat`: why it is not determined.",
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "natprobe preflight",
        "description": Preflight.__doc__,
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "$defs": definitions,
    }


def text() -> str:
    """Return the schema as it stands in the file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
