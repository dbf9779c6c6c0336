"""The pytest plugin: NATs to test against, as fixtures. Loaded by pytest itself once natprobe is installed.

``nat_lab``           the lab in network namespaces, up once for all tests; skips, saying why, where there can be none
``ice_pair``          two real ICE peers behind two NATs: do they connect, over what, how fast, and why not
``nat_lab_turn``      a TURN server in the lab, for ``ice_pair(..., turn=nat_lab_turn)``
``fast_ice_failure``  has aioice in this process give up after 2 s and not after 64

With NATPROBE_LAB_COMPULSORY=1, as in CI, what would be skipped fails. Every import waits for the first use: a project
that uses none of the fixtures pays for this file alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from natprobe.lab.backend import Lab
    from natprobe.lab.ice_pair import IcePair


@pytest.fixture(scope="session")
def nat_lab() -> Iterator[Lab]:
    """A lab that is up (`natprobe.lab.backend.Lab`); each test applies its own policies to ``home`` and ``office``."""
    from natprobe.errors import LabUnavailable  # noqa: PLC0415
    from natprobe.lab.session import open_lab  # noqa: PLC0415

    try:
        lab = open_lab("namespaces")
    except LabUnavailable as missing:
        _not_here(missing)
    with lab:
        yield lab


@pytest.fixture
def nat_lab_turn(nat_lab: Lab) -> Iterator[dict[str, Any]]:
    """A TURN server of the test's own, as an ICE server for both sides: ``urls``, ``username``, ``credential``."""
    from natprobe.errors import LabUnavailable  # noqa: PLC0415
    from natprobe.lab.turn import turn_server  # noqa: PLC0415

    with ExitStack() as stack:
        try:
            server = stack.enter_context(turn_server(nat_lab))
        except LabUnavailable as missing:
            _not_here(missing)
        yield server


@pytest.fixture
def ice_pair(nat_lab: Lab) -> Callable[..., IcePair]:
    """``ice_pair(home, office, skew=, turn=, ...)``: see `natprobe.lab.ice_pair.connect_pair`."""
    from functools import partial  # noqa: PLC0415

    from natprobe.lab.ice_pair import connect_pair  # noqa: PLC0415

    return partial(connect_pair, nat_lab)


@pytest.fixture
def fast_ice_failure() -> Iterator[None]:
    """Have a pair of this process that cannot connect fail within 2 s."""
    from natprobe.webrtc.internals import fast_failure  # noqa: PLC0415

    with fast_failure():
        yield


def _not_here(reason: object) -> NoReturn:
    if os.environ.get("NATPROBE_LAB_COMPULSORY"):
        pytest.fail(f"a lab test cannot run: {reason}")
    pytest.skip(str(reason))
