"""``natprobe lab``: NATs of known behaviour on this machine, to test against."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from natprobe.cli.labs import MEMORY, Backend, Classifier, build, classifier, gateway_of
from natprobe.cli.lean import add, group
from natprobe.cli.running import NOT_DETERMINED
from natprobe.cli.table import AXES, LEGEND, heading, row, short
from natprobe.cli.terminal import Progress, coloured, emit, note
from natprobe.errors import LabUnavailable

if TYPE_CHECKING:
    from natprobe.cli.comparing import Run
    from natprobe.lab.backend import Lab
    from natprobe.lab.policy import NatPolicy

_HOW = """\
The lab is up, and gateway home is {policy}.

natprobe behind it:   natprobe lab run {policy}
a shell on a node:    natprobe lab run {policy} --node home-1 -- bash
the end of it all:    natprobe lab down

Nodes: {nodes}. The reflector serves {server}.
"""


def add_to(app: typer.Typer) -> None:
    """Add the group of commands to the command line."""
    labs = group("Build NATs of known behaviour on this machine, to test against.")
    add(labs, "up", up)
    add(labs, "down", down)
    add(labs, "list", show_list)
    add(labs, "run", run)
    app.add_typer(labs, name="lab")


def up(
    *,
    policy: Annotated[str, typer.Option(metavar="POLICY", help="A name that `list` shows, or JSON.")] = "eim-apdf",
    backend: Backend = None,
) -> None:
    """Build a lab that stays, and tell how to use it. If one is up, only the policy of gateway home changes."""
    from natprobe.lab.policy import parse_policy
    from natprobe.lab.session import remember

    wanted = parse_policy(policy)
    if backend == MEMORY:
        raise typer.BadParameter(
            "a lab in memory ends with its command: choose namespaces or docker", param_hint="--backend"
        )
    with Progress() as progress:
        lab = _running(backend) or _build(backend, progress, kept=True)
    try:
        lab.apply(gateway_of(lab, "home-1"), wanted)
    finally:
        remember(lab)
    nodes, server = ", ".join(lab.topology.nodes), lab.topology.reflector_addresses[0]
    emit(_HOW.format(policy=shlex.quote(policy), nodes=nodes, server=server))


def down() -> None:
    """End the lab that `up` has built."""
    from natprobe.lab.session import forget

    lab = _running(None)
    if lab is None:
        note("no lab is up")
        return
    lab.close()
    forget()


def _running(backend: str | None) -> Lab | None:
    """Return the lab that an earlier command left running, if it is made of what is wanted; None without one."""
    from natprobe.lab.session import BACKENDS, attach

    try:
        lab = attach()
    except LabUnavailable:
        return None
    return lab if backend is None or isinstance(lab, BACKENDS.get(backend, ())) else None


def _build(backend: str | None, progress: Progress, *, kept: bool) -> Lab:
    """Build a lab, of containers where namespaces cannot be had. Raises LabUnavailable where neither can, with why."""
    if backend:
        return build(backend, progress, kept=kept)
    try:
        return build("namespaces", progress, kept=kept)
    except LabUnavailable as no_namespaces:
        try:
            return build("docker", progress, kept=kept)
        except LabUnavailable as no_docker:
            raise LabUnavailable(f"this needs a lab of processes; {no_namespaces}; {no_docker}") from None


def show_list() -> None:
    """List the policies that have a name, and what a report on each must say; and the lab that is up, if any."""
    from natprobe.cli.comparing import in_words
    from natprobe.lab.policy import PRESETS

    emit(heading(("mapping", "filtering"), "ports"))
    for name, policy in PRESETS.items():
        made = in_words(policy)
        emit(row([name, *(short(made[protocol], key) for protocol, key in AXES), policy.udp.port_assignment]))
    emit(f"\n{LEGEND}")
    lab = _running(None)
    note("no lab is up" if lab is None else "a lab is up; its end is `natprobe lab down`")


def run(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="A name that `list` shows, or JSON.")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="What to run in place of natprobe classify.")
    ] = None,
    *,
    node: Annotated[str, typer.Option(metavar="NODE", help="Where to run it.")] = "home-1",
    backend: Backend = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the report too, with its evidence.")] = False,
) -> None:
    """Give a gateway a policy and run natprobe behind it: found beside expected. Or run another command there.

    Uses the lab that is up; without one, builds one for the while, or classifies in memory. Exit status: 0 all agree, 3
    some do not, 1 could not run; of another command, its own.
    """
    from natprobe.cli.comparing import classify_behind
    from natprobe.lab.policy import parse_policy
    from natprobe.run import Tier

    wanted = parse_policy(policy)
    if command:
        raise typer.Exit(_run_command(command, node, wanted, backend))
    with Progress() as progress, _some_classifier(backend, progress) as classifying:
        if classifying.lab:
            _check_node(classifying.lab, node)
        progress.say(f"classifying {policy} from {node}")
        result = classify_behind(classifying, wanted, Tier.DEFAULT, node)
    _show(result, json=json, verbose=verbose)
    if not result.right:
        raise typer.Exit(NOT_DETERMINED)


def _run_command(command: list[str], node: str, policy: NatPolicy, backend: str | None) -> int:
    """Run a command on a node behind a policy, and return its exit status as a shell would."""
    if backend == MEMORY:
        raise typer.BadParameter(
            "no command can run in memory: choose namespaces or docker, or leave out the command",
            param_hint="--backend",
        )
    with Progress() as progress, _some_lab(backend, progress) as lab:
        _check_node(lab, node)
        lab.apply(gateway_of(lab, node), policy)
        status = subprocess.run(lab.inside(node, command), check=False).returncode  # noqa: S603 - the user's own command
    return status if status >= 0 else 128 - status


def _check_node(lab: Lab, node: str) -> None:
    if node not in lab.topology.nodes:
        raise typer.BadParameter(f"{node!r} is none of {', '.join(lab.topology.nodes)}", param_hint="--node")


@contextmanager
def _some_lab(backend: str | None, progress: Progress) -> Iterator[Lab]:
    """Give the lab that is up and leave it up, or one that ends with the block."""
    from natprobe.lab.session import remember

    with _running(backend) or _build(backend, progress, kept=False) as lab:
        try:
            yield lab
        finally:
            if lab.kept:
                remember(lab)


@contextmanager
def _some_classifier(backend: str | None, progress: Progress) -> Iterator[Classifier]:
    """Give what classifies in the lab that is up, or in one that ends with the block, or in memory."""
    if _running(backend):
        with _some_lab(backend, progress) as lab:
            yield Classifier(lab)
    else:
        with classifier(backend, progress) as classifying:
            yield classifying


def _show(run: Run, *, json: bool, verbose: bool) -> None:
    if json:
        emit(run.report)
        for line in run.wrong:
            note(line)
        return
    emit(_side_by_side(run))
    if verbose:
        from natprobe.cli.showing import show
        from natprobe.report import Report

        emit("\n")
        show(Report.loads(run.report), json=False, verbose=True)


def _side_by_side(run: Run) -> str:
    lines = [f"{'':18}{'expected':28}found"]
    for protocol, expected in run.expected.items():
        for key, words in expected.items():
            found = run.found[protocol][key]
            verdict = coloured("right", good=True) if found == words else coloured("WRONG", good=False)
            lines.append(f"{protocol.upper():5}{key:13}{words:28}{found:28}{verdict}")
    end = "all agree" if run.right else f"{len(run.wrong)} of {len(lines) - 1} do not agree"
    return "\n".join([*lines, *run.wrong, f"{end}, {run.seconds:.2f} s"]) + "\n"
