"""The labs that commands use: the one that is up, one built for the while, or the one in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from natprobe.cli.terminal import Progress, note
from natprobe.errors import LabUnavailable

if TYPE_CHECKING:
    from natprobe.lab.backend import Lab
    from natprobe.lab.policy import NatPolicy
    from natprobe.run import Tier

MEMORY = "memory"
_CLIENT = "home-1"
_TIMEOUT = 30.0
"""Seconds for a run of natprobe on a node, which takes 3 at most."""

Backend = Annotated[
    str | None,
    typer.Option(
        metavar="namespaces|docker|memory",
        help="What the lab is made of; namespaces, or memory where they cannot be had.",
    ),
]


@dataclass
class Classifier:
    """Classifies behind policies: on a node of a lab, or in memory.

    ``replaceable`` allows to end a lab that does not work, and to go on in memory; that is noted on stderr.
    """

    lab: Lab | None
    replaceable: bool = False

    def classify(self, policy: NatPolicy, tier: Tier, node: str = _CLIENT) -> str:
        """Return the report's JSON. Raises LabUnavailable where the lab does not work and may not be replaced."""
        if self.lab:
            try:
                return _classify_on(self.lab, node, policy, tier)
            except LabUnavailable as reason:
                if not self.replaceable:
                    raise
                self.lab.close()
                self.lab = None
                _note_memory(reason)
        if node != _CLIENT:
            raise LabUnavailable(f"the lab in memory has no node {node}: its client is {_CLIENT}, leave out --node")
        from natprobe.lab.simulation import simulate

        return simulate(policy, tier=tier).dumps() + "\n"


@contextmanager
def classifier(backend: str | None, progress: Progress) -> Iterator[Classifier]:
    """Give what classifies behind policies, in the lab of that name; by default in namespaces, or else in memory.

    Raises LabUnavailable where a backend was named and cannot be had, ValueError where there is none of that name.
    """
    if backend == MEMORY:
        yield Classifier(None)
        return
    from natprobe.lab.session import BACKENDS

    if backend not in (None, *BACKENDS):
        raise ValueError(f"{backend!r} is no backend of the lab: choose {', '.join(BACKENDS)} or {MEMORY}")
    try:
        lab = build(backend or "namespaces", progress)
    except LabUnavailable as reason:
        if backend:
            raise
        _note_memory(reason)
        yield Classifier(None)
        return
    with lab:
        yield Classifier(lab, replaceable=backend is None)


def build(backend: str, progress: Progress, *, kept: bool = False) -> Lab:
    """Build a lab of processes. Raises LabUnavailable."""
    from natprobe.lab.session import open_lab

    progress.say("building the lab")
    try:
        return open_lab(backend, kept=kept)
    finally:
        progress.say("")


def gateway_of(lab: Lab, node: str) -> str:
    """Return the gateway that a policy is for where it is looked at from ``node``: its own, or home."""
    from natprobe.lab.topology import Role

    client = lab.topology.nodes[node].role is Role.CLIENT
    return lab.topology.gateway_of(node if client else _CLIENT).name


def _classify_on(lab: Lab, node: str, policy: NatPolicy, tier: Tier) -> str:
    """Give a node's gateway a policy, run ``natprobe classify`` on the node, and return its JSON."""
    from natprobe.lab.backend import gist, sound
    from natprobe.run import Tier

    options = {Tier.QUICK: ["--quick"], Tier.DEFAULT: [], Tier.DEEP: ["--deep"]}[tier]
    command = ["natprobe", "classify", "-4", "-s", str(lab.topology.reflector_addresses[0]), "--json", *options]
    lab.apply(gateway_of(lab, node), policy)
    with sound():
        done = lab.run(node, command, timeout=_TIMEOUT)
    if not done.stdout.startswith("{"):
        raise LabUnavailable(f"natprobe on {node} ended with status {done.returncode}: {gist(done.stderr)}")
    return done.stdout


def _note_memory(reason: LabUnavailable) -> None:
    note(f"natprobe: this runs in memory, because the kernel lab is not available: {reason}")
