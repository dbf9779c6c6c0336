"""NATs in a table: a row each, with what they do to UDP and to TCP in as few letters as there is room for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from natprobe.behaviour import Dependence, Protocol

_SHORT: Mapping[str, str] = {
    Dependence.ENDPOINT_INDEPENDENT: "EI",
    Dependence.ADDRESS_DEPENDENT: "AD",
    Dependence.PORT_DEPENDENT: "PD",
    Dependence.ADDRESS_AND_PORT_DEPENDENT: "APD",
    Dependence.CONNECTION_DEPENDENT: "CD",
}
LEGEND = "EI endpoint-independent, AD address-dependent, APD address-and-port-dependent\n"
AXES = tuple((protocol, key) for protocol in Protocol for key in ("mapping", "filtering"))
_WIDTHS = (25, 11, 11, 11, 11, 12)


def heading(*more: str) -> str:
    """Return the two lines above the rows."""
    protocols = (protocol.upper() if key == "mapping" else "" for protocol, key in AXES)
    return row(["", *protocols]) + row(["NAT", *(key for _, key in AXES), *more])


def row(cells: Iterable[str]) -> str:
    """Return cells in their columns."""
    return " ".join(cell.ljust(width - 1) for cell, width in zip(cells, _WIDTHS, strict=False)).rstrip() + "\n"


def short(verdicts: Mapping[str, str], key: str) -> str:
    """Return one verdict, of those on a protocol in words, in a few letters."""
    if verdicts["reachable"] == "no":
        return "blocked"
    if key == "mapping" and verdicts.get("translated") == "no":
        return "no NAT"
    return _SHORT.get(verdicts.get(key, ""), "?")
