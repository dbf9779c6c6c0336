"""The JSON Schemas of a preflight and of checked servers, made from the types.

``python -m natprobe.webrtc.schema`` writes them to their files.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from natprobe.behaviour import Certainty
from natprobe.endpoint import Endpoint
from natprobe.webrtc.outcome import CHECKS_SCHEMA, IceServerCheck
from natprobe.webrtc.readiness import SCHEMA, Preflight, Readiness

PATH = Path(__file__).with_name("preflight.schema.json")
CHECKS_PATH = Path(__file__).with_name("ice-servers.schema.json")
NAT_REPORT = "../report.schema.json"

_STRINGS: dict[type, dict[str, Any]] = {
    Endpoint: {"type": "string", "description": "An address and a port."},
    datetime: {"type": "string", "format": "date-time"},
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of what ``Preflight.to_json`` returns; that of the NAT's report stands in its own file."""
    check, definitions = _check()
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
    return _document("natprobe preflight", Preflight.__doc__, properties, definitions)


def checks_schema() -> dict[str, Any]:
    """Return the JSON Schema of what ``natprobe turn --json`` prints."""
    check, definitions = _check()
    properties = {
        "schema": {"const": CHECKS_SCHEMA},
        "version": {"type": "string", "description": "Of the natprobe that checked."},
        "checks": {"type": "array", "items": check},
    }
    return _document("natprobe ice servers", "Each server as it was checked.", properties, definitions)


def _check() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of one check, and the definitions that it refers to."""
    (check,), definitions = msgspec.json.schema_components([IceServerCheck], schema_hook=_STRINGS.__getitem__)
    definitions["IceServerCheck"]["required"] = list(definitions["IceServerCheck"]["properties"])
    return check, definitions


def _document(
    title: str, description: str | None, properties: dict[str, Any], definitions: dict[str, Any]
) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "description": description,
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "$defs": definitions,
    }


def text(of: dict[str, Any] | None = None) -> str:
    """Return a schema, the preflight's unless another is given, as it stands in its file."""
    return json.dumps(of or schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
    CHECKS_PATH.write_text(text(checks_schema()), encoding="utf-8")
