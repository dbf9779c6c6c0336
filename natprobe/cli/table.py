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


def heading(columns: tuple[str, str], *more: str) -> str:
    """Return the two lines above the rows: the same two columns for either protocol, and what comes after them."""
    protocols = (cell for protocol in Protocol for cell in (protocol.upper(), ""))
    return row(["", *protocols]) + row(["NAT", *columns * len(Protocol), *more])


def row(cells: Iterable[str]) -> str:
    """Return cells in their columns."""
    return " ".join(cell.ljust(width - 1) for cell, width in zip(cells, _WIDTHS, strict=False)).rstrip() + "\n"


def pair(verdicts: Mapping[str, str]) -> str:
    """Return mapping and filtering, of the verdicts on a protocol in words, in a few letters."""
    return short(verdicts, "mapping") + ("" if verdicts["reachable"] == "no" else f"/{short(verdicts, 'filtering')}")


def short(verdicts: Mapping[str, str], key: str) -> str:
    """Return one verdict, of those on a protocol in words, in a few letters."""
    if verdicts["reachable"] == "no":
        return "blocked"
    if key == "mapping" and verdicts.get("translated") == "no":
        return "no NAT"
    return _SHORT.get(verdicts.get(key, ""), "?")
