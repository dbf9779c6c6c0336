"""Port reuse on the kernel's own NATs: told with a second address, by two hosts together, and by drawing.

Where many flows are drawn, or two hosts meet, the namespaces alone do, for a kernel is the same in a container.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from subprocess import Popen
from typing import Any

import pytest

from natprobe.behaviour import PortReuse
from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS, NatPolicy, parse_policy

from .test_classify import ROUNDS, SERVER

pytestmark = [pytest.mark.lab, pytest.mark.slow]

TELL = """
import asyncio, json, sys, natprobe
for _ in range(int(sys.argv[1])):
    report = asyncio.run(natprobe.classify([sys.argv[2]], versions=[4], **json.loads(sys.argv[3])))
    profiles = {"udp": report.ipv4.udp, "tcp": report.ipv4.tcp}
    verdicts = {name: profile.port_reuse for name, profile in profiles.items() if profile and profile.port_reuse}
    print(json.dumps({name: [verdict.value, verdict.reason] for name, verdict in verdicts.items()}), flush=True)
"""
SECOND = "10.64.1.20"
KEEPING = parse_policy('{"port_assignment": "preserving", "port_reuse": "per-protocol"}')
DRAWING = parse_policy('{"port_assignment": "random", "port_reuse": "exclusive"}')

Told = list[dict[str, tuple[str | None, str]]]


def command(rounds: int, **options: object) -> list[str]:
    return ["python", "-c", TELL, str(rounds), SERVER, json.dumps(options)]


def tell(lab: Lab, rounds: int = ROUNDS, **options: object) -> Told:
    """Return what each run of a client says of port reuse, and why."""
    ended = lab.run("home-1", command(rounds, **options), timeout=60 + 10 * rounds)
    assert ended.returncode == 0, ended.stderr
    return read(ended.stdout, rounds)


def read(output: str, rounds: int) -> Told:
    told = [json.loads(line) for line in output.splitlines()]
    assert len(told) == rounds
    return told


def output(partner: Popen[str]) -> str:
    """Return all that a client prints; closing its stdin, as communicate does, would end it in Docker."""
    assert partner.stdout
    return partner.stdout.read()


def wrong(told: Told, right: PortReuse, *, only: Sequence[str] = ("udp", "tcp")) -> list[Any]:
    """Return the runs that say something else, and why."""
    return [verdicts for verdicts in told if any(verdicts[protocol][0] != right for protocol in only)]


def test_masquerading_shares_ports_between_destinations(lab: Lab) -> None:
    lab.apply("home", PRESETS["linux-masquerade"])
    assert wrong(tell(lab, second_source=SECOND), PortReuse.PER_DESTINATION) == []


def test_a_table_that_gives_each_port_once_is_told_from_it(lab: Lab) -> None:
    told: Told = []
    for _ in range(ROUNDS):
        lab.apply("home", KEEPING)  # or the table of the kept ports fills up
        told += tell(lab, 1, second_source=SECOND)
    assert wrong(told, PortReuse.PER_PROTOCOL) == []


@pytest.mark.parametrize(
    ("policy", "right"), [(PRESETS["linux-masquerade"], PortReuse.PER_DESTINATION), (KEEPING, PortReuse.PER_PROTOCOL)]
)
def test_two_hosts_tell_it_together(lab: Lab, backend: str, policy: NatPolicy, right: PortReuse) -> None:
    told: Told = []
    for _ in range(ROUNDS if backend == "namespaces" else 1):
        lab.apply("home", policy)  # or the table of the kept ports fills up
        with lab.start("home-2", command(1, partner=True)) as partner:
            told += tell(lab, 1, partner=True)
            told += read(output(partner), 1)
    assert wrong(told, right) == []


@pytest.mark.parametrize("name", ["linux-masquerade", "eim-apdf"])
def test_where_one_address_cannot_tell_nothing_is_told(lab: Lab, name: str) -> None:
    lab.apply("home", PRESETS[name])
    (told,) = tell(lab, 1)
    assert {value for value, _ in told.values()} == {None}


def draw(lab: Lab, policy: NatPolicy, backend: str, **options: object) -> Told:
    """Return what is said where many flows are drawn: of an empty table each time, most often where it is cheap."""
    told: Told = []
    for _ in range(ROUNDS if backend == "namespaces" else 1):
        lab.apply("home", policy)
        told += tell(lab, 1, tier=2, **options)
    return told


def test_random_ports_are_found_to_be_shared_when_enough_are_drawn(lab: Lab, backend: str) -> None:
    """Of 1,600 flows to four destinations, none to two ports of one address meet once in 140 runs."""
    told = draw(lab, PRESETS["linux-fully-random"], backend, protocols=["udp"])
    assert wrong(told, PortReuse.PER_DESTINATION, only=["udp"]) == []


def test_random_ports_that_are_given_once_are_found_to_be(lab: Lab, backend: str) -> None:
    assert wrong(draw(lab, DRAWING, backend), PortReuse.EXCLUSIVE) == []


def test_the_command_line_meets_a_partner(lab: Lab) -> None:
    lab.apply("home", PRESETS["linux-masquerade"])
    asking = ["natprobe", "classify", "-4", "-s", SERVER, "--partner", "--json"]
    with lab.start("home-2", asking) as partner:
        ended = lab.run("home-1", asking, timeout=60)
        output(partner)
    assert ended.returncode == partner.returncode == 0
    assert json.loads(ended.stdout)["ipv4"]["udp"]["port_reuse"]["value"] == PortReuse.PER_DESTINATION
