"""The client against servers that are not ours, behind every NAT of the lab: coturn, plain STUN, and the classic traps.

For each server is said here what it can show and what it cannot. What it can show must be found out, and what it cannot
must be *not determined*, for a reason that names what is wrong with the server: never a wrong class, and never a right
one by luck. All servers are asked at once by one process, for each run has ports of its own.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from threading import Thread
from typing import Any

import pytest
from bad_servers import Fault

from natprobe.behaviour import Dependence, Protocol, Treatment
from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS, NatPolicy, expected, expected_further
from natprobe.run import Tier

from .conftest import ROOT, not_here, open_here

pytestmark = [pytest.mark.lab, pytest.mark.interop, pytest.mark.slow]

PRIMARY, ALTERNATE, LONELY, NOBODY = "198.51.100.10", "198.51.100.11", "198.51.100.12", "198.51.100.99"
CLASSIFY = """
import asyncio, json, sys, natprobe
async def classify(servers):
    try:
        return (await natprobe.classify(servers, tier=natprobe.Tier[sys.argv[2]])).to_json()
    except natprobe.CannotRun as failure:
        return str(failure)
async def main():
    print(json.dumps(await asyncio.gather(*map(classify, json.loads(sys.argv[1])))))
asyncio.run(main())
"""

WHOLE = frozenset(Dependence)
"""Four endpoints tell every mapping."""
INDEPENDENCE = frozenset({Dependence.ENDPOINT_INDEPENDENT})
"""Two addresses, one port: who sees the same from both looks at neither."""
NOTHING: frozenset[Dependence] = frozenset()
"""Fewer endpoints: that there is no NAT is all that can be seen."""


@dataclass(frozen=True)
class Case:
    """One list of servers: what it can show, and in what words the reasons must say that it cannot show the rest."""

    servers: tuple[str, ...]
    mapping: frozenset[Dependence]
    filtering: bool
    limits: Mapping[str, str]
    """By the report's key."""
    tcp: bool = True

    def can_show(self, protocol: Protocol, key: str, truth: Mapping[str, object]) -> bool:
        """Return whether these servers can show a verdict of this key where the truth is such."""
        match key:
            case _ if protocol is Protocol.TCP and not self.tcp:
                return False
            case "mapping":
                return not truth["translated"] or truth["mapping"] in self.mapping
            case "filtering":
                return self.filtering and protocol is Protocol.UDP
        return True

    def limit(self, protocol: Protocol, key: str) -> str:
        if protocol is Protocol.UDP:
            return self.limits[key]
        if not self.tcp:
            return "serve TCP" if key == "reachable" else "no server"
        return "can connect back" if key == "filtering" else self.limits[key]


def trap(fault: Fault, port: int, limit: str) -> tuple[str, Case]:
    return str(fault), Case((f"{PRIMARY}:{port}",), WHOLE, False, {"filtering": limit}, tcp=False)


UNSUPPORTED = "it does not support RFC 5780"
REPEATED = "its OTHER-ADDRESS repeats its own address"

CASES = {
    "coturn, first address": Case((f"{PRIMARY}:3500",), WHOLE, True, {}),
    # Its OTHER-ADDRESS is its own address, and "change IP" changes nothing: a known bug of coturn.
    "coturn, second address": Case(
        (f"{ALTERNATE}:3500",), NOTHING, False, {"mapping": REPEATED, "filtering": REPEATED}
    ),
    "coturn, both addresses": Case(
        (f"{PRIMARY}:3500", f"{ALTERNATE}:3500"), WHOLE, False, {"filtering": "a server was greeted there"}
    ),
    "coturn without RFC 5780": Case(
        (f"{PRIMARY}:3510",), NOTHING, False, {"mapping": UNSUPPORTED, "filtering": UNSUPPORTED}
    ),
    "two plain servers": Case(
        (f"{PRIMARY}:3510", f"{ALTERNATE}:3510"),
        INDEPENDENCE,
        False,
        {"mapping": UNSUPPORTED, "filtering": UNSUPPORTED},
    ),
    "coturn --stun-only": Case((f"{LONELY}:3520",), NOTHING, False, {"mapping": UNSUPPORTED, "filtering": UNSUPPORTED}),
    "a dead one among them": Case((f"{NOBODY}:3478", f"{PRIMARY}:3500", f"{LONELY}:3599"), WHOLE, True, {}),
    **dict(
        [
            trap(Fault.IGNORES_CHANGE, 3600, f"the server answered from {PRIMARY}:3600 in place of it"),
            trap(Fault.REFUSES_CHANGE, 3610, "the server refuses to change its source (error 420)"),
            trap(Fault.DROPS_CHANGE, 3620, "the server has not shown that it can send from there"),
        ]
    ),
}


# --- the servers ------------------------------------------------------------------------------------------------------


def coturn(lab: Lab, directory: Path, addresses: Sequence[str], port: int, *options: str) -> Popen[str]:
    """Start a coturn on the reflector's node and return it once it serves."""
    command = [
        *("turnserver", "-n", "--no-auth", "--no-cli", "--no-tls", "--no-dtls", "--min-port=49152", "--max-port=49153"),
        *("--log-file=stdout", f"--pidfile={directory}/{port}.pid", f"--userdb={directory}/{port}.db"),
        *(f"--listening-ip={address}" for address in addresses),
        *(f"--listening-port={port}", f"--alt-listening-port={port + 1}", *options),
    ]
    return ready(lab.start("reflector", command), "stdout", "Total General servers")


def bad_server(lab: Lab, fault: Fault, port: int) -> Popen[str]:
    program = str(ROOT / "tests" / "bad_servers.py")
    words = [fault, PRIMARY, ALTERNATE, str(port), str(port + 1)]
    return ready(lab.start("reflector", ["python", program, *words]), "stderr", "serving")


def ready(server: Popen[str], stream: str, word: str) -> Popen[str]:
    """Wait until a server says that it is ready, and let it say more to nobody."""
    lines = getattr(server, stream)
    said = [next(lines, "")]
    while said[-1] and word not in said[-1]:
        said.append(next(lines, ""))
    assert said[-1], f"a server did not start: {''.join(said)}"
    Thread(target=deque, args=(lines, 0), daemon=True).start()
    return server


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of this module's own, with all the servers up in it."""
    if not shutil.which("turnserver", path="/usr/bin:/usr/local/bin:/usr/sbin"):
        not_here("coturn is not installed: apt install coturn")
    with open_here() as lab:
        directory = tmp_path_factory.mktemp("coturn")
        servers = [
            coturn(lab, directory, (PRIMARY, ALTERNATE), 3500),
            coturn(lab, directory, (PRIMARY, ALTERNATE), 3510, "--no-rfc5780"),
            coturn(lab, directory, (LONELY,), 3520, "--stun-only"),
            bad_server(lab, Fault.IGNORES_CHANGE, 3600),
            bad_server(lab, Fault.REFUSES_CHANGE, 3610),
            bad_server(lab, Fault.DROPS_CHANGE, 3620),
        ]
        yield lab
        for server in servers:
            server.terminate()
    for server in servers:
        server.communicate()


def classify(lab: Lab, cases: Mapping[str, Case], tier: Tier = Tier.QUICK) -> dict[str, Any]:
    """Return by case its report, or the line that says why there is none."""
    servers = json.dumps([case.servers for case in cases.values()])
    ended = lab.run("home-1", ["python", "-c", CLASSIFY, servers, tier.name], timeout=120)
    assert ended.returncode == 0, ended.stderr
    return dict(zip(cases, json.loads(ended.stdout), strict=True))


def complaints(case: Case, policy: NatPolicy, report: Any) -> list[str]:
    """Return what a report says wrongly, what it fails to say, and what it cannot know."""
    if isinstance(report, str):
        unreachable = not case.tcp and policy.udp.outbound is not Treatment.ACCEPTED
        return [] if unreachable else [report]
    found = []
    for protocol in Protocol:
        truth = expected(policy)[protocol]
        for key, value in truth.items():
            verdict = report["ipv4"][protocol][key]
            said, reason = verdict["value"], verdict["reason"]
            if said not in (None, value):
                found.append(f"{protocol} {key}: WRONG, {said} and not {value}: {reason}")
            elif said is None and case.can_show(protocol, key, truth):
                found.append(f"{protocol} {key}: not found out, though it could have been: {reason}")
            elif said is not None and not case.can_show(protocol, key, truth):
                found.append(f"{protocol} {key}: {said}, which nobody can know: {reason}")
            elif said is None and case.limit(protocol, key) not in reason:
                found.append(f"{protocol} {key}: does not name the server's limit: {reason}")
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_each_server_shows_what_it_can_and_is_named_for_what_it_cannot(lab: Lab, name: str) -> None:
    lab.apply("home", PRESETS[name])
    reports = classify(lab, CASES)
    assert {case: complaints(CASES[case], PRESETS[name], report) for case, report in reports.items()} == {
        case: [] for case in CASES
    }


@pytest.mark.parametrize("name", ["linux-masquerade-accept", "linux-masquerade-drop", "eim-eif", "eim-adf", "firewall"])
def test_a_server_that_can_send_from_elsewhere_shows_what_moves_a_mapping(lab: Lab, name: str) -> None:
    lab.apply("home", PRESETS[name])
    truth = expected_further(PRESETS[name])["udp"]["unsolicited_remap"]
    for case, report in classify(lab, CASES, Tier.DEFAULT).items():
        verdict = report["ipv4"]["udp"]["unsolicited_remap"]
        if CASES[case].filtering:
            assert (verdict["value"], verdict["certainty"]) == (truth, "confirmed")
        else:
            assert verdict["value"] in (truth, None), case
            assert verdict["reason"]


KEPT_BY_HOST = """
table ip kept_by_host {{
    set known {{ type ipv4_addr; flags dynamic,timeout; timeout 60s; }}
    chain pass {{
        type filter hook forward priority filter;
        iifname "{legs.lan}" update @known {{ ip daddr }}
        iifname "{legs.uplink}" ct state new ip saddr != @known drop
    }}
}}
"""


@pytest.fixture
def kept_by_host(lab: Lab) -> Iterator[None]:
    """A firewall that lets in, over any protocol, whoever this host has sent anything to within a minute."""
    lab.apply("home", PRESETS["none"])
    lab.must("home", ["nft", "-f", "-"], stdin=KEPT_BY_HOST.format(legs=lab.legs("home")))
    yield
    lab.must("home", ["nft", "delete", "table", "ip", "kept_by_host"])


@pytest.mark.parametrize("server", [f"{PRIMARY}:3500", PRIMARY], ids=["coturn", "reflector"])
@pytest.mark.usefixtures("kept_by_host")
def test_no_test_opens_the_filter_of_another(lab: Lab, server: str) -> None:
    """The mapping test of TCP used to open the alternate for the filtering test of UDP: "endpoint-independent"."""
    report = classify(lab, {"": Case((server,), WHOLE, True, {})})[""]
    for protocol in Protocol:
        filtering = report["ipv4"][protocol]["filtering"]
        if protocol is Protocol.TCP and server != PRIMARY:
            assert filtering["value"] is None
        else:
            assert (filtering["value"], filtering["certainty"]) == ("address-dependent", "confirmed")


def test_a_dead_server_costs_little(lab: Lab) -> None:
    lab.apply("home", PRESETS["none"])
    case = "a dead one among them"
    report = classify(lab, {case: CASES[case]})[case]
    assert report["duration_s"] < 1  # which would be the patience with a server that is waited for


def test_a_family_that_this_host_does_not_have_is_told(lab: Lab) -> None:
    ended = lab.run("home-1", ["natprobe", "classify", "-s", "[2001:db8::1]:3478"])
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "no route to 2001:db8::1" in ended.stderr


def test_loss_makes_no_wrong_class(tmp_path: Path) -> None:
    """One packet in ten is lost each way; coturn gets no second chance that a reflector does not get."""
    if not shutil.which("turnserver", path="/usr/bin:/usr/local/bin:/usr/sbin"):
        not_here("coturn is not installed: apt install coturn")
    case = CASES["coturn, first address"]
    runs = {str(number): case for number in range(4)}
    with open_here(delay=0.02, loss=0.1, seed=5780) as lab:
        server = coturn(lab, tmp_path, (PRIMARY, ALTERNATE), 3500)
        for name in ("eim-eif", "eim-adf", "apdm-apdf", "linux-masquerade-accept"):
            lab.apply("home", PRESETS[name])
            for report in classify(lab, runs).values():
                wrong = [line for line in complaints(case, PRESETS[name], report) if "WRONG" in line]
                assert wrong == []
        server.terminate()
    server.communicate()
