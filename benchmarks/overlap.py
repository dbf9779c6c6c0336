"""More connections than there are ports: how many TCP connections does one external IPv4 address carry at once?

    python benchmarks/overlap.py [--connections N] [--json] [--markdown FILE]

In the namespace lab, behind one NAT with one external address, as the kernel ships it (``linux-masquerade``): two hosts
connect from one local port each, both the same, to as many destinations as it takes; each connection is proven alive by
an exchange after the last one of all was opened. Then both go to the same destinations, where one port will not do for
both; and then to as many as before from behind a NAT that shares no port, where it ends at the pool.

131,072 connections, twice the number of ports that there are, take two to five minutes and 2 GB; the processes are many
because a process may have 20,000 files open here. Nothing leaves the machine, nothing is changed on it, and the end,
Ctrl-C included, takes everything down.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

from natprobe.lab.backend import READY, Lab
from natprobe.lab.namespaces import NamespaceLab
from natprobe.lab.policy import PRESETS
from natprobe.observation import to_json
from natprobe.reuse import hold
from natprobe.reuse.conclusions import outside, why_ended

FULL = 131_072
PORTS = 8_740
"""Destinations of one reflector process: with a connection to each, what the files of a process suffice for."""
PROCESS = 2 * PORTS
"""Connections of one client process."""
ADDRESSES = ("198.51.100.10", "198.51.100.11", "198.51.100.12")
HOSTS = {"home-1": ADDRESSES[:2], "home-2": ADDRESSES[2:]}
"""Which host connects to which addresses: no two connections have the same destination, so that all keep their port."""
COLLIDING = 300
"""Destinations to which both hosts connect."""
LOCAL_PORT = 40_000
FIRST_PORT, FIRST_DESTINATION = 3500, 10_000
PACE = 20_000.0
POLICIES = ("linux-masquerade", "apdm-apdf")
PROGRAM = str(Path(__file__).resolve())


# --- the other ends ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Server:
    """A reflector process: where it is asked, and how many destinations it has."""

    address: str
    port: int
    destinations: range

    @property
    def name(self) -> str:
        return f"{self.address}:{self.port}"

    @property
    def command(self) -> list[str]:
        ports = f"{self.destinations.start}-{self.destinations.stop - 1}"
        return ["natprobe", "reflect", "--address", self.address, "--port", str(self.port), "--destinations", ports]


def servers(connections: int) -> Iterator[Server]:
    """Yield the reflectors that have a destination for each connection, the addresses in turn."""
    each = -(-connections // len(ADDRESSES))
    rounds = -(-each // PORTS)
    ports = -(-each // rounds)
    for number in range(rounds):
        first = FIRST_DESTINATION + number * ports
        for address in ADDRESSES:
            yield Server(address, FIRST_PORT + number, range(first, first + ports))


def serve(lab: Lab, stack: ExitStack, wanted: Sequence[Server]) -> list[subprocess.Popen[str]]:
    """Start the reflectors and return them when all of them serve."""
    started = [stack.enter_context(lab.start(lab.topology.reflector.name, server.command)) for server in wanted]
    for process in started:
        stack.callback(process.terminate)
    for process in started:
        assert process.stderr is not None
        said = process.stderr.readline()
        if not said.startswith(READY):
            raise SystemExit(f"a reflector cannot serve: {said}{process.stderr.read()}")
    return started


# --- a client process -------------------------------------------------------------------------------------------------


def work(names: Sequence[str], connections: int) -> None:
    """Hold connections to these servers, say so, wait for a word, prove them alive, and tell what was found."""
    before = memory("self")

    async def all_are_open() -> None:
        print(json.dumps({"memory": memory("self") - before}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

    holding = asyncio.run(hold(names, connections=connections, port=LOCAL_PORT, pace=PACE, before_proof=all_are_open))
    told = {**to_json(holding), "outside": outside(holding), "ended": why_ended(holding)}
    print(json.dumps(told), flush=True)


def memory(process: int | str) -> int:
    """Return the bytes of a process's own memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def slab() -> int:
    """Return the bytes of this machine's kernel objects: sockets, connection tracking, and what neighbours have."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Slab:"))


# --- the demonstration ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Client:
    """A client process on a host, while it holds."""

    host: str
    process: subprocess.Popen[str]

    def hear(self) -> dict[str, Any]:
        """Return the next thing that it tells."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a client on {self.host} has failed")
        told: dict[str, Any] = json.loads(line)
        return told

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


def begin(lab: Lab, stack: ExitStack, host: str, wanted: Sequence[Server], connections: int) -> Client:
    command = ["python", PROGRAM, "--work", str(connections), *(server.name for server in wanted)]
    process = stack.enter_context(subprocess.Popen(lab.inside(host, command), stdin=PIPE, stdout=PIPE, text=True))
    stack.callback(process.terminate)
    return Client(host, process)


def shared(lab: Lab, connections: int) -> dict[str, Any]:
    """Hold so many connections behind the kernel's own NAT, and return what was seen of them."""
    lab.apply("home", PRESETS[POLICIES[0]])
    there = list(servers(connections))
    kernel = slab()
    with ExitStack() as stack:
        reflectors = serve(lab, stack, there)
        idle, kernel_idle = sum(memory(inner(process)) for process in reflectors), slab()
        say(f"opening {connections:,} connections to {len(there)} reflectors")
        began = time.monotonic()
        clients = list(clients_for(lab, stack, there, connections))
        memories = [client.hear()["memory"] for client in clients]
        opened = time.monotonic()
        seen = {
            "conntrack": int(lab.must("home", ["conntrack", "-C"])),
            "reflector_bytes": sum(memory(inner(process)) for process in reflectors) - idle,
            "client_bytes": sum(memories),
            "kernel_bytes": slab() - kernel_idle,
            "listening_bytes": kernel_idle - kernel,
        }
        say(f"{seen['conntrack']:,} are in the NAT's table; proving them alive")
        for client in clients:
            client.go_on()
        holdings = [(client.host, client.hear()) for client in clients]
        proven = time.monotonic()
    return {"opening_s": opened - began, "proof_s": proven - opened, **seen, **summed(holdings)}


def inner(process: subprocess.Popen[str]) -> int:
    """Return the process that runs inside the lab: the child of the one that enters it."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


def clients_for(lab: Lab, stack: ExitStack, there: Sequence[Server], connections: int) -> Iterator[Client]:
    """Start the clients: a host connects to its addresses, two reflectors for each of its processes."""
    left = connections
    for host, addresses in HOSTS.items():
        own = [server for server in there if server.address in addresses]
        for number in range(0, len(own), 2):
            pair = own[number : number + 2]
            share = min(left, sum(len(server.destinations) for server in pair))
            left -= share
            yield begin(lab, stack, host, pair, share)


def summed(holdings: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return what several processes found, put together."""
    alive: dict[str, int] = {}
    outside: dict[str, dict[str, int]] = {}
    for host, holding in holdings:
        alive[host] = alive.get(host, 0) + holding["alive"]
        for external in holding.get("external", ()):
            seen = outside.setdefault(external["address"], {"lowest": 1 << 16, "highest": 0, "connections": 0})
            seen["lowest"] = min(seen["lowest"], external["lowest"])
            seen["highest"] = max(seen["highest"], external["highest"])
            seen["connections"] += external["connections"]
    return {
        "alive": sum(alive.values()),
        "counted": sum(holding["counted"] for _, holding in holdings),
        "from_one_endpoint": max(alive.values()),
        "local_endpoints": sorted({holding["local"] for _, holding in holdings}),
        "processes": len(holdings),
        "outside": outside,
        "failures": [failure for _, holding in holdings for failure in holding.get("failures", ())],
    }


def colliding(lab: Lab, there: Sequence[Server]) -> dict[str, dict[str, Any]]:
    """Have both hosts connect from the same port to the same destinations, one after the other, and return all held."""
    lab.apply("home", PRESETS[POLICIES[0]])
    say("two hosts, the same local port, the same destinations")
    clients = []
    with ExitStack() as stack:
        for host in HOSTS:
            clients.append(begin(lab, stack, host, there, COLLIDING))
            clients[-1].hear()
        for client in clients:
            client.go_on()
        return {client.host: client.hear() for client in clients}


def exclusive(lab: Lab, there: Sequence[Server]) -> dict[str, Any]:
    """Ask for a connection to each destination from behind a NAT that shares no port, and return what was seen."""
    lab.apply("home", PRESETS[POLICIES[1]])
    wanted = sum(len(server.destinations) for server in there)
    say("one host behind a NAT that shares no port")
    with ExitStack() as stack:
        client = begin(lab, stack, "home-1", there, wanted)
        client.hear()
        entries = int(lab.must("home", ["conntrack", "-C"]))
        client.go_on()
        return {"wanted": wanted, "conntrack": entries, **client.hear()}


def say(what: str) -> None:
    print(what, file=sys.stderr)


def table(many: dict[str, Any], few: dict[str, Any]) -> list[str]:
    """Return the result as lines of Markdown."""
    each = many["alive"]
    address, seen = next(iter(many["outside"].items()))
    ports = f"{seen['lowest']}" if seen["lowest"] == seen["highest"] else f"{seen['lowest']} to {seen['highest']}"
    (pool,) = few["external"]
    rows = [
        ("connections alive at once", f"{each:,}", f"{few['alive']:,} of {few['wanted']:,} asked for"),
        ("counted by the reflectors", f"{many['counted']:,}", f"{few['counted']:,}"),
        ("entries in the NAT's connection table", f"{many['conntrack']:,}", f"{few['conntrack']:,}"),
        ("local endpoints", ", ".join(many["local_endpoints"]), few["local"]),
        ("of these from one local endpoint", f"{many['from_one_endpoint']:,}", f"{few['alive']:,}"),
        ("external address", address, pool["address"]),
        ("external ports", ports, f"{pool['ports']:,}, each for one connection"),
        ("opened in", f"{many['opening_s']:.1f} s", f"{few['opening_s']:.1f} s"),
        ("opened a second", f"{each / many['opening_s']:,.0f}", f"{few['opened'] / few['opening_s']:,.0f}"),
        ("proven alive in", f"{many['proof_s']:.1f} s", f"{few['proof_s']:.1f} s"),
        ("memory a connection: client process", f"{many['client_bytes'] / each:,.0f} B", ""),
        ("memory a connection: reflector process", f"{many['reflector_bytes'] / each:,.0f} B", ""),
        ("memory a connection: kernel, both ends and the NAT", f"{many['kernel_bytes'] / each:,.0f} B", ""),
    ]
    head = [f"| | {POLICIES[0]} | exclusive ports ({POLICIES[1]}) |", "|---|--:|--:|"]
    return [*head, *(f"| {name} | {one} | {other} |" for name, one, other in rows)]


def main() -> None:
    """Demonstrate, and say what came of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--connections", type=int, default=FULL, help=f"in all ({FULL:,})")
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    options.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    options.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options.add_argument("servers", nargs="*", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.work is not None:
        work(chosen.servers, chosen.work)
        return
    with NamespaceLab() as lab:
        many = shared(lab, chosen.connections)
        with ExitStack() as stack:
            there = list(servers(min(chosen.connections, PORTS)))
            serve(lab, stack, there)
            both, few = colliding(lab, there), exclusive(lab, there)
    lines = [*table(many, few), "", f"The end behind exclusive ports: {few['ended']}"]
    lines += [f"To the same destinations {host} is {told['outside']}" for host, told in both.items()]
    lines += [f"Failed: {failure}" for failure in many["failures"]]
    print(json.dumps({"shared": many, "colliding": both, "exclusive": few}) if chosen.json else "\n".join(lines))
    if chosen.markdown:
        chosen.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
