"""The JSON Schema of a report, made from the types themselves: ``python -m natprobe.schema`` writes it anew.

It is shipped as ``natprobe/report.schema.json`` (JSON Schema 2020-12). Later versions may add keys to a profile and to
a verdict, and kinds of observation; whoever reads reports ignores what it does not know.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import msgspec

from natprobe.behaviour import Certainty
from natprobe.endpoint import Endpoint
from natprobe.observation import KINDS
from natprobe.report import SCHEMA, Family, Report, ServerReport, Vantage

PATH = Path(__file__).with_name("report.schema.json")

_STRINGS: dict[type, dict[str, Any]] = {
    Endpoint: {
        "type": "string",
        "description": "An address and a port; port 0 stands for any.",
        "pattern": r"^([0-9.]+|\[[0-9a-f:.]+\]):[0-9]{1,5}$",
    },
    IPv4Address: {"type": "string", "format": "ipv4"},
    IPv6Address: {"type": "string", "format": "ipv6"},
}
"""What is a string in JSON, and which."""

_RFC3339 = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"


def schema() -> dict[str, Any]:
    """Return the JSON Schema of what ``Report.to_json`` returns."""
    types = [Vantage, ServerReport, Family, *KINDS.values()]
    refs, definitions = msgspec.json.schema_components(types, schema_hook=_STRINGS.__getitem__)
    vantage, server, family, *observations = refs
    for kind, type_ in KINDS.items():
        _name_kind(definitions[type_.__name__], kind)
    for name, definition in definitions.items():
        if name.startswith("Verdict"):
            _bind_value(definition)
    properties = {
        "schema": {"const": SCHEMA},
        "version": {"type": "string", "description": "Of the natprobe that measured."},
        "started": {"type": "string", "format": "date-time", "pattern": _RFC3339},
        "duration_s": {"type": "number", "minimum": 0},
        "vantage": vantage,
        "servers": {"type": "array", "items": server},
        "ipv4": {"anyOf": [family, {"type": "null"}]},
        "ipv6": {"anyOf": [family, {"type": "null"}]},
        "observations": {"type": "array", "items": {"oneOf": list(observations)}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "natprobe report",
        "description": Report.__doc__,
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "$defs": definitions,
    }


def _name_kind(observation: dict[str, Any], kind: str) -> None:
    """Observations are told apart by their kind, and hold nothing that is not told here."""
    observation["properties"] = {"kind": {"const": kind}, **observation["properties"]}
    observation["required"] = ["kind", *observation["required"]]
    observation["additionalProperties"] = False


def _bind_value(verdict: dict[str, Any]) -> None:
    """A verdict's value is null exactly when it is not determined; its evidence is always told."""
    verdict["required"].append("evidence")
    verdict["properties"]["evidence"]["items"] |= {"minimum": 0, "description": "The index of an observation."}
    verdict["if"] = {"properties": {"certainty": {"const": Certainty.NOT_DETERMINED}}}
    verdict["then"] = {"properties": {"value": {"type": "null"}}}
    verdict["else"] = {"properties": {"value": {"not": {"type": "null"}}}}


def text() -> str:
    """Return the schema as it stands in the file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
