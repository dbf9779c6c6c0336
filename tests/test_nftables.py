"""Rulesets are text that nft accepts; what the kernel cannot be is refused by the name of the field."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import product

import pytest

from natprobe.behaviour import Dependence, PortAssignment, PortReuse, Protocol, Treatment
from natprobe.errors import PolicyNotPossible
from natprobe.lab import nftables
from natprobe.lab.nftables import ruleset
from natprobe.lab.policy import PRESETS, NatPolicy, ProtocolPolicy

NFT = shutil.which("nft", path="/usr/sbin:/usr/bin:/sbin")
SANDBOX = ["unshare", "--user", "--map-root-user", "--net"]


def text_of(policy: NatPolicy) -> str:
    return ruleset(policy, uplink="wan0", lan="lan0", external="198.51.100.1")


def every_policy() -> Iterator[NatPolicy]:
    """Yield each combination of the words, with a refusal that has a rule of its own."""
    for mapping, filtering, assignment, reuse in product(Dependence, Dependence, PortAssignment, PortReuse):
        yield NatPolicy.alike(ProtocolPolicy(mapping, filtering, assignment, reuse, Treatment.RESET, Treatment.ICMP))


def is_possible(policy: NatPolicy) -> bool:
    try:
        text_of(policy)
    except PolicyNotPossible:
        return False
    return True


@pytest.fixture(scope="module")
def sandbox() -> list[str]:
    """How to run nft where it can do no harm."""
    if NFT is None:
        pytest.skip("nft is not installed: apt install nftables")
    if subprocess.run([*SANDBOX, "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are forbidden here")
    return [*SANDBOX, NFT, "--check", "--file", "-"]


@pytest.mark.parametrize("name", PRESETS)
def test_nft_accepts_each_preset(sandbox: list[str], name: str) -> None:
    assert_accepted(sandbox, text_of(PRESETS[name]))


@pytest.mark.slow
def test_nft_accepts_whatever_is_not_refused(sandbox: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "SLOTS", 4)
    possible = [policy for policy in every_policy() if is_possible(policy)]
    # Every mapping and filter with a table: sequential or random, exclusive or per protocol; preserving, per protocol.
    # Masquerading at random is not among them: it is another class over TCP than over UDP.
    assert len(possible) == 4 * 4 * (2 * 2 + 1) + len(["masquerade"])
    for some in range(0, len(possible), 8):  # without root, more is too much for one transaction
        assert_accepted(sandbox, "".join(map(text_of, possible[some : some + 8])))


def assert_accepted(sandbox: list[str], text: str) -> None:
    ended = subprocess.run(sandbox, input=text, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ({"mapping": "connection-dependent"}, "mapping connection-dependent"),
        ({"filtering": "connection-dependent"}, "filtering connection-dependent"),
        ({"filtering": "connection-dependent", "translated": False}, "filtering connection-dependent"),
        ({"port_assignment": "other"}, "port_assignment other"),
        ({"port_reuse": "overloading"}, "port_reuse overloading"),
        ({"port_reuse": "per-destination-address"}, "port_reuse per-destination-address"),
        ({"port_reuse": "per-destination"}, "port_reuse per-destination with .* port_assignment sequential"),
        (
            {"port_reuse": "per-destination", "port_assignment": "preserving", "filtering": "address-dependent"},
            "filtering address-dependent with port_reuse per-destination",
        ),
        ({"port_assignment": "preserving"}, "port_reuse exclusive with preserved ports: take per-protocol"),
        ({"translated": False, "unsolicited": "accepted"}, "unsolicited accepted behind a filter"),
        ({"details": {"port_block": 64, "quota": 5}}, "port_block 64, quota 5$"),
    ],
)
def test_what_the_kernel_cannot_be_is_refused_by_its_field(words: dict[str, object], field: str) -> None:
    with pytest.raises(PolicyNotPossible, match=f"udp: .* {field}"):
        text_of(NatPolicy.from_json(words))


def test_the_protocol_that_is_impossible_is_named() -> None:
    with pytest.raises(PolicyNotPossible, match=r"tcp: .* port_assignment other"):
        text_of(NatPolicy.from_json({"tcp": {"port_assignment": "other"}}))


def test_exclusive_pools_do_not_meet_and_others_are_the_same() -> None:
    for reuse, common in ((PortReuse.EXCLUSIVE, 0), (PortReuse.PER_PROTOCOL, nftables.SLOTS)):
        for assignment in (PortAssignment.SEQUENTIAL, PortAssignment.RANDOM):
            text = text_of(NatPolicy.alike(ProtocolPolicy(port_assignment=assignment, port_reuse=reuse)))
            udp, tcp = (set(re.findall(r"\d+ : (\d+)", table)) for table in text.split("table ip natprobe_tcp {"))
            assert len(udp) == len(tcp) == nftables.SLOTS
            assert len(udp & tcp) == common


def test_each_ruleset_replaces_any_other_in_one_transaction() -> None:
    for policy in PRESETS.values():
        for protocol in Protocol:
            table = f"table ip natprobe_{protocol}"
            assert f"{table}\ndelete {table}\n{table} {{" in text_of(policy)
