"""What two NATs make of each other: against tables that others worked out, and three-valued to the end."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from natprobe.behaviour import Dependence
from natprobe.traversal.model import Behaviour, Candidate, Order, Refusal, Traversal, meet, outcome_of

EI, AD, APD = (
    Dependence.ENDPOINT_INDEPENDENT,
    Dependence.ADDRESS_DEPENDENT,
    Dependence.ADDRESS_AND_PORT_DEPENDENT,
)
EVERY = [Behaviour(mapping, filtering) for mapping in (EI, AD, APD) for filtering in (EI, AD, APD)]

# --- the nine NATs with each other ------------------------------------------------------------------------------------

# A down, B across, each in the order of EVERY. Y: they connect whatever the NAT does with the answer to what it let in;
# y: if that leaves by the way the packet came; n: not at all. Worked out by brute force over symmetric ICE (RFC 8445).
MATRIX = """
    YYY YYY YYY
    YYY YYY YYY
    YYY ynn ynn
    YYy YYy YYy
    YYn Ynn Ynn
    YYn ynn ynn
    YYy YYy yyy
    YYn Ynn ynn
    YYn ynn ynn
"""
