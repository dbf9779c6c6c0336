"""The NAT's table, rule by rule: packets in, the time in the test's hands, packets out."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natprobe.behaviour import Dependence, Hairpinning, PortAssignment, PortReuse, Protocol, Treatment
from natprobe.endpoint import Endpoint, parse_address
from natprobe.lab.details import LINUX, Details, Pooling, Refresh
from natprobe.lab.nat import Dropped, Hairpinned, Nat
from natprobe.lab.packet import Flags, Packet, Unreachable, unreachable
from natprobe.lab.policy import PRESETS, NatPolicy, ProtocolPolicy

UDP, TCP = Protocol.UDP, Protocol.TCP
BOTH = pytest.mark.parametrize("protocol", Protocol)
EI, AD, PD, APD, CD = Dependence
A1, A2, B1, B2 = (Endpoint.parse(f"198.51.100.{host}:{port}") for host in (10, 11) for port in (3478, 3479))
EXTERNAL = "198.51.100.1"
HOST, NEIGHBOUR = "10.0.0.1", "10.0.0.2"


def at(address: str, port: int) -> Endpoint:
    return Endpoint.of(address, port)


@dataclass
class Bench:
    """A NAT and a clock that ticks a millisecond with every packet."""

    nat: Nat
    now: float = 0.0

    def tick(self, seconds: float = 0.001) -> float:
        self.now += seconds
        return self.now

    def out(self, source: Endpoint, remote: Endpoint, protocol: Protocol = UDP, flags: Flags | None = None) -> Endpoint:
        """Send outwards and return the external endpoint; fails where the packet is dropped."""
        flags = flags or (Flags.SYN if protocol is TCP else None)
        result = self.nat.outbound(Packet(protocol, source, remote, b"", flags), self.tick())
        assert isinstance(result, Packet), result
        assert result.destination == remote
        return result.source

    def port(self, source: Endpoint, remote: Endpoint, protocol: Protocol = UDP) -> int:
        return self.out(source, remote, protocol).port

    def back(
        self, remote: Endpoint, external: Endpoint, protocol: Protocol = UDP, flags: Flags | None = None
    ) -> Packet | Dropped:
        flags = flags or (Flags.SYN if protocol is TCP else None)
        return self.nat.inbound(Packet(protocol, remote, external, b"", flags), self.tick())

    def passes(
        self, remote: Endpoint, external: Endpoint, protocol: Protocol = UDP, flags: Flags | None = None
    ) -> Endpoint | None:
        """Return to whom a packet from outside goes, or None."""
        result = self.back(remote, external, protocol, flags)
        return result.destination if isinstance(result, Packet) else None


def bench(policy: NatPolicy | ProtocolPolicy, *addresses: str, seed: int = 1) -> Bench:
    if isinstance(policy, ProtocolPolicy):
        policy = NatPolicy.alike(policy)
    return Bench(Nat(policy, tuple(map(parse_address, addresses or (EXTERNAL,))), random.Random(seed)))


def with_details(**details: object) -> ProtocolPolicy:
    return ProtocolPolicy(details=Details(**details))  # type: ignore[arg-type]


def in_memory(policy: ProtocolPolicy) -> Bench:
    return bench(policy)


SOCKET = at(HOST, 50000)


# --- mapping ----------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("mapping", "groups"),
    [(EI, "0000"), (AD, "0011"), (PD, "0101"), (APD, "0123"), (CD, "0123")],
    ids=str,
)
@pytest.mark.parametrize("assignment", PortAssignment)
def test_a_mapping_depends_on_what_it_is_told_to(
    protocol: Protocol, mapping: Dependence, groups: str, assignment: PortAssignment
) -> None:
    nat = bench(ProtocolPolicy(mapping, port_assignment=assignment))
    seen = [nat.port(SOCKET, remote, protocol) for remote in (A1, A2, B1, B2)]
    first = {port: str(index) for index, port in reversed(list(enumerate(dict.fromkeys(seen))))}
    assert "".join(first[port] for port in seen) == groups
    assert [nat.port(SOCKET, remote, protocol) for remote in (A1, A2, B1, B2)] == seen


def test_every_connection_has_a_mapping_of_its_own_where_mapping_depends_on_it() -> None:
    nat = bench(ProtocolPolicy(CD))
    first = nat.out(SOCKET, A1, TCP)
    assert nat.out(SOCKET, A1, TCP) == first  # the SYN again
    assert nat.passes(A1, first, TCP, Flags.SYN_ACK) == SOCKET
    nat.out(SOCKET, A1, TCP, Flags.RST)
    assert nat.out(SOCKET, A1, TCP) != first


def test_without_translation_nothing_is_changed() -> None:
    nat = bench(PRESETS["firewall"])
    assert nat.out(SOCKET, A1) == SOCKET
    assert nat.passes(A1, SOCKET) == SOCKET
    assert nat.passes(A2, SOCKET) is None


@BOTH
def test_a_router_lets_everything_through_and_remembers_nothing(protocol: Protocol) -> None:
    nat = bench(PRESETS["none"])
    assert nat.passes(B2, SOCKET, protocol) == SOCKET
    assert nat.passes(B2, SOCKET, TCP, Flags.RST) == SOCKET
    assert nat.out(SOCKET, B2, TCP, Flags.RST) == SOCKET
    error = unreachable(Packet(UDP, B2, SOCKET), Unreachable.PORT, SOCKET.address)
    assert nat.nat.outbound(error, 0.0) is error
    assert nat.nat.inbound(error, 0.0) is error


# --- filtering --------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("filtering", "admitted"),
    [(EI, "A1 A2 B1 B2"), (AD, "A1 A2"), (PD, "A1 B1"), (APD, "A1")],
    ids=str,
)
@pytest.mark.parametrize("translated", [True, False], ids=["translated", "firewall"])
def test_a_filter_depends_on_what_it_is_told_to(
    protocol: Protocol, filtering: Dependence, admitted: str, translated: bool
) -> None:
    nat = bench(NatPolicy.alike(ProtocolPolicy(filtering=filtering), translated=translated))
    external = nat.out(SOCKET, A1, protocol)
    found = {name for name, remote in REMOTES.items() if nat.passes(remote, external, protocol)}
    assert found == set(admitted.split())


REMOTES = {"A1": A1, "A2": A2, "B1": B1, "B2": B2}


@pytest.mark.parametrize(("filtering", "comes_in"), [(APD, True), (CD, False)], ids=str)
def test_a_new_connection_from_a_known_remote_comes_in_unless_the_filter_goes_by_connections(
    filtering: Dependence, comes_in: bool
) -> None:
    nat = bench(ProtocolPolicy(filtering=filtering))
    external = nat.out(SOCKET, A1, TCP)
    assert nat.passes(A1, external, TCP, Flags.SYN_ACK) == SOCKET
    for way in (nat.out(SOCKET, A1, TCP, Flags.FIN), nat.passes(A1, external, TCP, Flags.FIN)):
        assert way
    assert bool(nat.passes(A1, external, TCP)) is comes_in


@pytest.mark.parametrize("filtering", [APD, CD])
def test_simultaneous_open_passes_every_filter(filtering: Dependence) -> None:
    nat = bench(ProtocolPolicy(filtering=filtering))  # RFC 5382 §4.2 REQ-2a
    external = nat.out(SOCKET, A1, TCP)
    assert nat.passes(A1, external, TCP, Flags.SYN) == SOCKET


@pytest.mark.parametrize(("per_host", "comes_in"), [(False, False), (True, True)])
def test_a_filter_per_host_lets_in_whom_another_socket_has_contacted(per_host: bool, comes_in: bool) -> None:
    nat = bench(ProtocolPolicy(filtering=AD, details=Details(filter_per_host=per_host)))
    nat.out(at(HOST, 50001), B1)
    external = nat.out(SOCKET, A1)
    assert bool(nat.passes(B2, external)) is comes_in
    assert nat.passes(B2, nat.out(at(NEIGHBOUR, 50000), A1)) is None


def test_an_answer_to_what_came_in_leaves_as_it_came() -> None:
    nat = bench(ProtocolPolicy(mapping=APD, filtering=EI))
    external = nat.out(SOCKET, A1, TCP)
    assert nat.passes(B1, external, TCP) == SOCKET
    assert nat.out(SOCKET, B1, TCP, Flags.SYN_ACK) == external


def test_a_remote_contacted_elsewhere_still_comes_in_by_any_mapping() -> None:
    nat = bench(ProtocolPolicy(mapping=APD, filtering=EI))  # where a kernel rewrites the remote's port
    to_a, to_b = nat.out(SOCKET, A1), nat.out(SOCKET, B1)
    assert nat.passes(B1, to_a) == SOCKET
    assert nat.out(SOCKET, B1) == to_b


# --- ports ------------------------------------------------------------------------------------------------------------


def ports(nat: Bench, count: int, first: int = 50000, host: str = HOST) -> list[int]:
    return [nat.port(at(host, first + number), A1) for number in range(count)]


def test_preserved_ports_are_the_inside_ones() -> None:
    assert ports(in_memory(ProtocolPolicy(port_assignment=PortAssignment.PRESERVING)), 3) == [50000, 50001, 50002]


@pytest.mark.parametrize(("step", "expected"), [(1, [40000, 40001, 40002]), (3, [40000, 40003, 40006])])
def test_sequential_ports_are_so_many_apart(step: int, expected: list[int]) -> None:
    assert ports(in_memory(with_details(port_step=step)), 3) == expected


def test_random_ports_depend_on_the_seed_alone() -> None:
    policy = ProtocolPolicy(port_assignment=PortAssignment.RANDOM)
    one, same, other = (ports(bench(policy, seed=seed), 20) for seed in (1, 1, 2))
    assert one == same != other
    assert len(set(one)) == 20
    assert max(b - a for a, b in zip(sorted(one), sorted(one)[1:], strict=False)) > 1000


def test_computed_ports_are_neither_kept_nor_in_sequence_and_always_the_same() -> None:
    policy = ProtocolPolicy(port_assignment=PortAssignment.OTHER)
    one, same = (ports(bench(policy, seed=seed), 5) for seed in (1, 2))
    assert one == same
    assert one != sorted(one)


@pytest.mark.parametrize("assignment", PortAssignment)
def test_parity_is_kept(assignment: PortAssignment) -> None:
    nat = in_memory(ProtocolPolicy(port_assignment=assignment, details=Details(parity=True)))
    assert [port % 2 for port in ports(nat, 10)] == [0, 1] * 5


@pytest.mark.parametrize("assignment", PortAssignment)
def test_a_range_is_kept_to_until_it_is_exhausted(assignment: PortAssignment) -> None:
    nat = in_memory(ProtocolPolicy(port_assignment=assignment, details=Details(port_range=(5000, 5003))))
    assert sorted(ports(nat, 4)) == [5000, 5001, 5002, 5003]
    result = nat.nat.outbound(Packet(UDP, at(HOST, 60000), A1), nat.tick())
    assert result == Dropped("no port is free")


def test_each_host_has_its_block_of_ports() -> None:
    nat = in_memory(ProtocolPolicy(port_assignment=PortAssignment.RANDOM, details=Details(port_block=64)))
    assert {port // 64 for port in ports(nat, 64)} == {1024 // 64}
    assert {port // 64 for port in ports(nat, 10, host=NEIGHBOUR)} == {1024 // 64 + 1}


@pytest.mark.parametrize(("inside", "low", "high"), [(80, 1, 511), (700, 600, 1023), (5060, 1024, 65535)])
def test_a_port_that_is_taken_is_replaced_by_one_of_its_class(inside: int, low: int, high: int) -> None:
    nat = bench(PRESETS["linux-masquerade"])  # RFC 4787 §4.2.1 REQ-3a
    nat.out(at(HOST, inside), A1)
    port = nat.port(at(NEIGHBOUR, inside), A1)
    assert port != inside
    assert low <= port <= high


# --- port reuse: the levels P0 to P4 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reuse", "shared"),
    [
        (PortReuse.EXCLUSIVE, ""),
        (PortReuse.PER_PROTOCOL, "other protocol"),
        (PortReuse.PER_DESTINATION_ADDRESS, "other protocol, other address"),
        (PortReuse.PER_DESTINATION, "other protocol, other address, other port"),
        (PortReuse.OVERLOADING, "other protocol, other address, other port, same destination"),
    ],
    ids=lambda value: str(value)[:15],
)
def test_two_hosts_share_an_external_port_as_far_as_they_may(reuse: PortReuse, shared: str) -> None:
    cases = {
        "other protocol": (TCP, A1),
        "other address": (UDP, B1),
        "other port": (UDP, A2),
        "same destination": (UDP, A1),
    }
    found = []
    for case, (protocol, remote) in cases.items():
        nat = in_memory(ProtocolPolicy(port_assignment=PortAssignment.PRESERVING, port_reuse=reuse))
        nat.out(SOCKET, A1)
        if nat.port(at(NEIGHBOUR, SOCKET.port), remote, protocol) == SOCKET.port:
            found.append(case)
    assert ", ".join(found) == shared


def test_an_endpoint_may_have_the_same_port_over_both_protocols() -> None:
    nat = in_memory(ProtocolPolicy(port_assignment=PortAssignment.PRESERVING))
    assert nat.port(SOCKET, A1, UDP) == nat.port(SOCKET, A1, TCP) == SOCKET.port


def test_overloading_gives_what_comes_in_to_the_latest() -> None:
    nat = in_memory(
        ProtocolPolicy(port_assignment=PortAssignment.PRESERVING, port_reuse=PortReuse.OVERLOADING)
    )  # RFC 4787 §4.2.1: "port overloading"
    external, neighbour = nat.out(SOCKET, A1), at(NEIGHBOUR, SOCKET.port)
    assert nat.passes(A1, external) == SOCKET
    assert nat.out(neighbour, A1) == external
    assert nat.passes(A1, external) == neighbour


def test_a_port_is_free_again_once_its_mapping_has_died() -> None:
    nat = in_memory(ProtocolPolicy(port_assignment=PortAssignment.PRESERVING))
    nat.out(SOCKET, A1)
    assert nat.port(at(NEIGHBOUR, SOCKET.port), A1) != SOCKET.port
    nat.tick(301)
    assert nat.port(at("10.0.0.3", SOCKET.port), A1) == SOCKET.port


# --- what plain Linux masquerade does, as observed on the kernel, case by case ----------------------------------------


@pytest.fixture(params=Protocol, ids=str)
def linux(request: pytest.FixtureRequest) -> tuple[Bench, Protocol]:
    return bench(PRESETS["linux-masquerade"]), request.param


ONE, TWO = at(HOST, 40020), at(NEIGHBOUR, 40020)
Linux = tuple[Bench, Protocol]


def test_linux_one_socket_four_peers_is_preserved(linux: Linux) -> None:
    nat, protocol = linux
    assert {nat.port(ONE, remote, protocol) for remote in REMOTES.values()} == {40020}


def test_linux_two_hosts_different_peers_share_the_port(linux: Linux) -> None:
    nat, protocol = linux
    assert nat.port(ONE, A1, protocol) == nat.port(TWO, B1, protocol) == 40020
    assert nat.passes(A1, at(EXTERNAL, 40020), protocol, Flags.SYN_ACK if protocol is TCP else None) == ONE
    assert nat.passes(B1, at(EXTERNAL, 40020), protocol, Flags.SYN_ACK if protocol is TCP else None) == TWO


def test_linux_the_second_host_to_a_peer_gets_a_random_port_and_keeps_it(linux: Linux) -> None:
    nat, protocol = linux
    nat.port(ONE, A1, protocol)
    other = nat.port(TWO, A1, protocol)
    assert other != 40020
    assert {nat.port(TWO, remote, protocol) for remote in REMOTES.values()} == {other}


def test_linux_a_later_collision_moves_all_new_peers_and_leaves_the_old(linux: Linux) -> None:
    nat, protocol = linux
    nat.port(ONE, A1, protocol)
    assert nat.port(TWO, B1, protocol) == 40020
    moved = nat.port(TWO, A1, protocol)
    assert moved != 40020
    assert nat.port(TWO, B2, protocol) == moved
    assert nat.port(TWO, B1, protocol) == 40020


def test_linux_the_first_host_is_moved_by_the_second_and_stays_moved(linux: Linux) -> None:
    nat, protocol = linux
    nat.port(ONE, A1, protocol)
    nat.port(TWO, B1, protocol)
    moved = nat.port(ONE, B1, protocol)
    assert moved != 40020
    assert nat.port(ONE, B2, protocol) == moved


def test_linux_a_range_too_small_is_shared_per_destination_and_then_exhausted(linux: Linux) -> None:
    _, protocol = linux
    small = replace(PRESETS["linux-masquerade"].of(protocol), details=Details(port_range=(5000, 5003)))
    nat = bench(small)
    first = [nat.port(at(HOST, 40000 + number), A1, protocol) for number in range(4)]
    assert sorted(first) == [5000, 5001, 5002, 5003]
    assert nat.port(at(HOST, 50000), B1, protocol) in first
    fifth = Packet(protocol, at(HOST, 50001), A1, flags=Flags.SYN if protocol is TCP else None)
    assert nat.nat.outbound(fifth, nat.tick()) == Dropped("no port is free")


@pytest.mark.parametrize(
    ("preset", "protocol", "moves"),
    [
        ("linux-masquerade-accept", UDP, True),
        ("linux-masquerade-accept", TCP, False),  # an entry that was reset is replaced
        ("linux-masquerade-drop", UDP, False),
        ("linux-masquerade-reject", UDP, False),
        ("linux-masquerade-drop", TCP, False),
        ("linux-masquerade-reject", TCP, False),
    ],
)
def test_linux_an_unsolicited_packet_first(preset: str, protocol: Protocol, moves: bool) -> None:
    nat = bench(PRESETS[preset])
    assert nat.port(ONE, A1, protocol) == 40020
    assert nat.passes(B1, at(EXTERNAL, 40020), protocol) is None
    to_that_peer, to_a_new_one = nat.port(ONE, B1, protocol), nat.port(ONE, B2, protocol)
    assert (to_that_peer != 40020) is moves
    assert to_a_new_one == to_that_peer
    assert nat.port(ONE, A1, protocol) == 40020
    nat.tick(31)
    assert nat.port(at(HOST, 40021), A1, protocol) == 40021


@pytest.mark.parametrize("preset", ["linux-masquerade-accept", "linux-masquerade-reject"])
def test_linux_answers_what_was_not_asked_for(preset: str) -> None:
    nat = bench(PRESETS[preset])
    udp, tcp = (nat.back(B1, at(EXTERNAL, 1), protocol) for protocol in Protocol)
    assert isinstance(udp, Dropped)
    assert isinstance(tcp, Dropped)
    assert udp.reply
    assert udp.reply.error
    assert udp.reply.error.reason is Unreachable.PORT
    assert tcp.reply
    assert tcp.reply.flags is Flags.RST


def test_linux_has_no_hairpin_but_a_reset(linux: Linux) -> None:
    nat, protocol = linux
    external = nat.out(ONE, A1, protocol)
    packet = Packet(protocol, at(NEIGHBOUR, 50000), external, flags=Flags.SYN if protocol is TCP else None)
    result = nat.nat.outbound(packet, nat.tick())
    assert isinstance(result, Dropped)
    assert result.reply
    assert (result.reply.flags is Flags.RST) is (protocol is TCP)


def test_linux_fully_random_gives_every_destination_another_port(linux: Linux) -> None:
    _, protocol = linux
    nat = bench(PRESETS["linux-fully-random"])
    assert len({nat.port(ONE, remote, protocol) for remote in REMOTES.values()}) == 4


def test_linux_with_a_pool_takes_the_next_address_before_another_port() -> None:
    nat = bench(PRESETS["linux-masquerade"], "198.51.100.1", "198.51.100.2")
    first, second, third = (nat.out(at(f"10.0.0.{host}", 40020), A1) for host in (2, 4, 6))
    assert first.port == second.port == 40020
    assert first.address != second.address
    assert third.port != 40020


# --- pooling ----------------------------------------------------------------------------------------------------------

POOL = tuple(f"198.51.100.{host}" for host in (1, 2, 3, 4))


@pytest.mark.parametrize("pooling", Pooling)
def test_a_pool_is_paired_or_not(pooling: Pooling) -> None:
    nat = bench(ProtocolPolicy(mapping=APD, details=Details(pooling=pooling)), *POOL)
    remotes = [at(f"203.0.113.{number}", 3478) for number in range(20)]
    used = {nat.out(SOCKET, remote).address for remote in remotes}
    assert len(used) == (1 if pooling is Pooling.PAIRED else 4)


def test_a_paired_pool_holds_for_both_protocols() -> None:
    nat = bench(ProtocolPolicy(), *POOL)
    for host in range(8):
        source = at(f"10.0.0.{host}", 50000)
        assert nat.out(source, A1, UDP).address == nat.out(source, A1, TCP).address


# --- hairpinning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [Hairpinning.EXTERNAL_SOURCE, Hairpinning.INTERNAL_SOURCE])
def test_a_hairpinned_packet_has_the_source_it_shall_have(how: Hairpinning) -> None:
    nat = in_memory(ProtocolPolicy(filtering=EI, details=Details(hairpinning=how)))
    mine, neighbour = nat.out(SOCKET, A1), at(NEIGHBOUR, 50000)
    external = nat.out(neighbour, A1)
    result = nat.nat.outbound(Packet(UDP, neighbour, mine), nat.tick())
    assert isinstance(result, Hairpinned)
    assert result.packet.destination == SOCKET
    assert result.packet.source == (external if how is Hairpinning.EXTERNAL_SOURCE else neighbour)


def test_a_hairpin_is_subject_to_the_filter() -> None:
    nat = in_memory(with_details(hairpinning=Hairpinning.EXTERNAL_SOURCE))
    mine, neighbour = nat.out(SOCKET, A1), at(NEIGHBOUR, 50000)
    external = nat.out(neighbour, A1)
    to_me = Packet(UDP, neighbour, mine)
    assert nat.nat.outbound(to_me, nat.tick()) == Dropped("unsolicited")
    nat.nat.outbound(Packet(UDP, SOCKET, external), nat.tick())
    assert isinstance(nat.nat.outbound(to_me, nat.tick()), Hairpinned)


# --- lifetimes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("idle", "alive"), [(299, True), (301, False)])
def test_a_mapping_lives_five_minutes_unless_told_otherwise(idle: float, alive: bool) -> None:
    nat = in_memory(ProtocolPolicy())  # RFC 4787 §4.3 REQ-5
    external = nat.out(SOCKET, A1)
    nat.tick(idle)
    assert bool(nat.passes(A1, external)) is alive
    assert (nat.out(SOCKET, A1) == external) is alive


@pytest.mark.parametrize(
    ("refresh", "outbound", "inbound"),
    [(Refresh.OUTBOUND, True, False), (Refresh.INBOUND, False, True), (Refresh.BOTH, True, True)],
)
def test_only_what_refreshes_keeps_a_mapping_alive(refresh: Refresh, outbound: bool, inbound: bool) -> None:
    kept = {}
    for way in ("outbound", "inbound"):
        nat = in_memory(with_details(refresh=refresh, lifetime=10.0))
        external = nat.out(SOCKET, A1)
        nat.tick(7)
        if way == "outbound":
            nat.out(SOCKET, A1)
        else:
            nat.passes(A1, external)
        nat.tick(7)
        kept[way] = bool(nat.passes(A1, external))
    assert kept == {"outbound": outbound, "inbound": inbound}


def test_a_packet_that_is_refused_refreshes_nothing() -> None:
    nat = in_memory(with_details(refresh=Refresh.BOTH, lifetime=10.0))  # RFC 7857 §7
    external = nat.out(SOCKET, A1)
    nat.tick(7)
    assert nat.passes(B1, external) is None
    nat.tick(7)
    assert nat.passes(A1, external) is None


@pytest.mark.parametrize(("lasted", "lifetime"), [(0.5, 30), (3.0, 120)])
@pytest.mark.parametrize("alive", [True, False])
def test_linux_gives_a_stream_a_longer_life(lasted: float, lifetime: float, alive: bool) -> None:
    nat = bench(PRESETS["linux-masquerade"])
    external = nat.out(SOCKET, A1)
    nat.passes(A1, external)
    nat.tick(lasted)
    nat.out(SOCKET, A1)
    nat.tick(lifetime - 1 if alive else lifetime + 1)
    assert bool(nat.passes(A1, external)) is alive


@pytest.mark.parametrize(
    ("phase", "lifetime"),
    [("opening", 240), ("open", 7440), ("finished", 240), ("half closed", 7440), ("reset", 240)],
)
def test_a_connection_lives_as_long_as_its_state_lets_it(phase: str, lifetime: float) -> None:
    for idle, alive in ((lifetime - 1, True), (lifetime + 1, False)):
        nat = in_memory(ProtocolPolicy())  # RFC 5382 §5 REQ-5, RFC 7857 §2
        external = nat.out(SOCKET, A1, TCP)
        if phase != "opening":
            nat.passes(A1, external, TCP, Flags.SYN_ACK)
            nat.out(SOCKET, A1, TCP, Flags.ACK)
        if phase in ("finished", "half closed"):
            nat.out(SOCKET, A1, TCP, Flags.FIN)
        if phase == "finished":
            nat.passes(A1, external, TCP, Flags.FIN)
        if phase == "reset":
            nat.out(SOCKET, A1, TCP, Flags.RST)
        nat.tick(idle)
        assert bool(nat.passes(A1, external, TCP, Flags.ACK)) is alive


def test_a_reset_of_nothing_makes_no_mapping() -> None:
    nat = in_memory(ProtocolPolicy())
    assert nat.nat.outbound(Packet(TCP, SOCKET, A1, b"", Flags.RST), 1.0) == Dropped("resets nothing")
    assert nat.nat.inbound(Packet(TCP, A1, at(EXTERNAL, 40000), b"", Flags.RST), 1.0) == Dropped("resets nothing")


# --- refusals ---------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("treatment", Treatment)
def test_an_unsolicited_packet_is_treated_as_told(protocol: Protocol, treatment: Treatment) -> None:
    result = in_memory(ProtocolPolicy(unsolicited=treatment)).back(A1, at(EXTERNAL, 9), protocol)
    assert isinstance(result, Dropped)
    assert (
        _said(result)
        == {
            Treatment.ACCEPTED: Flags.RST if protocol is TCP else Unreachable.PORT,
            Treatment.DROPPED: None,
            Treatment.RESET: Flags.RST if protocol is TCP else Unreachable.PORT,
            Treatment.ICMP: Unreachable.PROHIBITED,
        }[treatment]
    )


@BOTH
@pytest.mark.parametrize("treatment", [Treatment.DROPPED, Treatment.RESET, Treatment.ICMP])
def test_a_blocked_protocol_is_treated_as_told(protocol: Protocol, treatment: Treatment) -> None:
    nat = in_memory(ProtocolPolicy(outbound=treatment))
    result = nat.nat.outbound(Packet(protocol, SOCKET, A1, flags=Flags.SYN if protocol is TCP else None), 1.0)
    assert isinstance(result, Dropped)
    assert (_said(result) is None) is (treatment is Treatment.DROPPED)
    assert result.reply is None or result.reply.destination.address == SOCKET.address


def _said(dropped: Dropped) -> Flags | Unreachable | None:
    if dropped.reply is None:
        return None
    return dropped.reply.error.reason if dropped.reply.error else dropped.reply.flags


def test_a_refusal_may_wait_and_is_not_due_once_the_sender_is_sent_to() -> None:
    policy = ProtocolPolicy(unsolicited=Treatment.ICMP, details=Details(unsolicited_after=6.0))
    nat = in_memory(policy)  # RFC 5382 §4.3 REQ-4
    external = nat.out(SOCKET, A1, TCP)
    syn = Packet(TCP, B1, external, flags=Flags.SYN)
    result = nat.nat.inbound(syn, nat.tick())
    assert isinstance(result, Dropped)
    assert (result.after, _said(result)) == (6.0, Unreachable.PROHIBITED)
    assert nat.nat.still_unsolicited(syn, nat.tick(6))
    nat.out(SOCKET, B1, TCP)
    assert not nat.nat.still_unsolicited(syn, nat.tick())


@pytest.mark.parametrize("treatment", [Treatment.DROPPED, Treatment.ICMP])
def test_a_quota_refuses_new_mappings_and_no_others(treatment: Treatment) -> None:
    nat = in_memory(with_details(quota=2, over_quota=treatment))  # RFC 6888 §3 REQ-4, REQ-9
    first = ports(nat, 2)
    result = nat.nat.outbound(Packet(UDP, at(HOST, 60000), A1), nat.tick())
    assert isinstance(result, Dropped)
    assert result.reason == "over quota"
    assert (result.reply is None) is (treatment is Treatment.DROPPED)
    assert ports(nat, 2) == first
    assert nat.port(at(NEIGHBOUR, 50000), A1)


# --- ICMP errors ------------------------------------------------------------------------------------------------------


@BOTH
def test_an_error_from_outside_reaches_the_endpoint_it_is_about_and_ends_nothing(protocol: Protocol) -> None:
    nat = in_memory(ProtocolPolicy())  # RFC 4787 §9 REQ-12, RFC 5382 §7.3
    external = nat.out(SOCKET, A1, protocol)
    error = unreachable(Packet(protocol, external, A1), Unreachable.HOST, A1.address)
    result = nat.nat.inbound(error, nat.tick())
    assert isinstance(result, Packet)
    assert result.destination.address == SOCKET.address
    assert result.error
    assert result.error.about.source == SOCKET
    assert nat.out(SOCKET, A1, protocol) == external


def test_an_error_from_inside_leaves_with_the_external_address() -> None:
    nat = in_memory(ProtocolPolicy())
    external = nat.out(SOCKET, A1)
    error = unreachable(Packet(UDP, A1, SOCKET), Unreachable.PORT, SOCKET.address)
    result = nat.nat.outbound(error, nat.tick())
    assert isinstance(result, Packet)
    assert result.source.address == external.address
    assert result.error
    assert result.error.about.destination == external


def test_an_error_about_nothing_known_is_dropped() -> None:
    nat = in_memory(ProtocolPolicy())
    inbound = unreachable(Packet(UDP, at(EXTERNAL, 5), A1), Unreachable.HOST, A1.address)
    outbound = unreachable(Packet(UDP, A1, SOCKET), Unreachable.HOST, SOCKET.address)
    assert isinstance(nat.nat.inbound(inbound, 0.0), Dropped)
    assert isinstance(nat.nat.outbound(outbound, 0.0), Dropped)


# --- whatever the policy and the history ------------------------------------------------------------------------------

POLICIES = st.builds(
    ProtocolPolicy,
    st.sampled_from(Dependence),
    st.sampled_from(Dependence),
    st.sampled_from(PortAssignment),
    st.sampled_from(PortReuse),
    st.sampled_from(Treatment),
    details=st.builds(
        Details,
        port_range=st.sampled_from([None, (2000, 2015)]),
        parity=st.booleans(),
        pooling=st.sampled_from(Pooling),
        filter_per_host=st.booleans(),
        refresh=st.sampled_from(Refresh),
        lifetime=st.sampled_from([None, 10.0]),
    ),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from([at(host, port) for host in (HOST, NEIGHBOUR) for port in (2000, 2001)]),
        st.sampled_from([A1, A2, B1, B2]),
        st.sampled_from([0.001, 1.0, 8.0, 400.0]),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(POLICIES, STEPS, st.sampled_from(Protocol))
def test_an_answer_given_at_once_always_comes_back_to_who_asked(
    policy: ProtocolPolicy, steps: list[tuple[Endpoint, Endpoint, float]], protocol: Protocol
) -> None:
    nat = bench(policy, *POOL[:2])
    asks, answers = (Flags.SYN, Flags.SYN_ACK) if protocol is TCP else (None, None)
    for source, remote, pause in steps:
        result = nat.nat.outbound(Packet(protocol, source, remote, b"", asks), nat.tick(pause))
        if isinstance(result, Packet):  # else its ports are exhausted
            assert nat.passes(remote, result.source, protocol, answers) == source


def test_of_two_flows_on_one_endpoint_to_one_remote_the_last_to_ask_is_answered() -> None:
    """Also where it had asked before the other one."""
    shared = ProtocolPolicy(
        Dependence.ADDRESS_DEPENDENT,
        Dependence.ENDPOINT_INDEPENDENT,
        PortAssignment.PRESERVING,
        PortReuse.OVERLOADING,
        Treatment.ACCEPTED,
    )
    nat = bench(shared)
    for source in (at(HOST, 2001), at(NEIGHBOUR, 2001), at(HOST, 2001)):
        result = nat.nat.outbound(Packet(UDP, source, A1), nat.tick(0.001))
        assert isinstance(result, Packet)
        assert nat.passes(A1, result.source) == source


@settings(deadline=None, max_examples=60)
@given(POLICIES, STEPS, st.sampled_from([A1, A2, B1, B2]))
def test_nobody_comes_in_to_whom_the_filter_would_not_let(
    policy: ProtocolPolicy, steps: list[tuple[Endpoint, Endpoint, float]], stranger: Endpoint
) -> None:
    policy = replace(policy, details=replace(policy.details, filter_per_host=False))
    nat = bench(policy)
    external: dict[Endpoint, set[Endpoint]] = {}
    for source, remote, pause in steps:
        result = nat.nat.outbound(Packet(UDP, source, remote), nat.tick(pause))
        if isinstance(result, Packet):
            external.setdefault(result.source, set()).add(remote)
    for mapped, contacted in external.items():
        if nat.passes(stranger, mapped):
            assert policy.filtering.key(stranger) in {policy.filtering.key(remote) for remote in contacted}


@settings(deadline=None, max_examples=60)
@given(POLICIES, STEPS)
def test_no_two_hosts_share_what_is_exclusive(
    policy: ProtocolPolicy, steps: list[tuple[Endpoint, Endpoint, float]]
) -> None:
    nat = bench(replace(policy, port_reuse=PortReuse.EXCLUSIVE, details=Details()))
    holders: dict[Endpoint, Endpoint] = {}
    for source, remote, _ in steps:
        assert holders.setdefault(nat.out(source, remote), source) == source


# --- the policy's JSON ------------------------------------------------------------------------------------------------


def test_details_survive_json_and_what_is_wrong_is_named() -> None:
    policy = NatPolicy.alike(with_details(port_range=(1, 5), hairpinning=Hairpinning.EXTERNAL_SOURCE, lifetime=20.0))
    assert NatPolicy.from_json(policy.to_json()) == policy
    assert NatPolicy.from_json({"details": {"port_range": [1, 5]}}).udp.details.port_range == (1, 5)
    with pytest.raises(ValueError, match="'colour'"):
        NatPolicy.from_json({"details": {"colour": 1}})
    with pytest.raises(ValueError, match="hairpinning"):
        NatPolicy.from_json({"details": {"hairpinning": "sometimes"}})


def test_linux_has_its_own_lifetimes() -> None:
    assert LINUX[UDP].lifetimes(UDP)[:2] == (30, 120)
    assert Details().lifetimes(TCP) == (240, 7440, 240)


def test_what_may_not_leave_is_refused_by_the_gateways_inside_address() -> None:
    """From there a client can tell that it was not the server's own network that refused."""
    nat = Nat(PRESETS["udp-rejected"], (parse_address("198.51.100.1"),), random.Random(1))
    client, server = Endpoint.parse("10.64.1.10:40000"), Endpoint.parse("198.51.100.10:3478")
    refused = nat.outbound(Packet(Protocol.UDP, client, server), 0.0)
    assert isinstance(refused, Dropped)
    assert refused.reply
    assert str(refused.reply.source.address) == "10.64.1.1"
