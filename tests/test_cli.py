"""The command line as its users meet it: what it prints where, and which status it ends with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import natprobe
from natprobe.cli.application import application
from natprobe.errors import NameNotFound
from natprobe.public import SERVERS, default_servers
from natprobe.reflector import Reflector
from natprobe.report import Report
from natprobe.sockets import HostNetwork

RECORDED = Path(__file__).parent / "recorded"
# This process's own, so that nobody else's ports are in the way.
HOST = f"127.{os.getpid() >> 8 & 0x7F | 0x80}.{os.getpid() & 0xFF}"
ADDRESSES = [f"{HOST}.{number}" for number in (1, 2, 3)]
SERVER = f"{ADDRESSES[0]}:3478"
ALONE = f"{HOST}.9"
NOBODY = f"{HOST}.77:3478"


@contextlib.contextmanager
def serving(addresses: Sequence[str]) -> Iterator[None]:
    """Run a reflector in a thread: the command under test has the event loop of this one."""
    ready, done = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with Reflector(addresses):
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(5)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module", autouse=True)
def reflectors() -> Iterator[None]:
    with serving(ADDRESSES), serving([ALONE]):
        yield


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NATPROBE_SERVERS", raising=False)
    for variable in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)


def run(*arguments: str, stdin: str = "") -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(application(), arguments, input=stdin)


def start(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    command = [sys.executable, "-m", "natprobe", *arguments]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.Popen(command, text=True, **streams)


def failed_in_one_line(result: Result, status: int = 1) -> str:
    """Hold a result against what was promised of a command that could not run, and return what it said."""
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("natprobe: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


# --- classify: what is printed ----------------------------------------------------------------------------------------


def test_the_text_begins_with_what_it_comes_to() -> None:
    result = run("classify", "-s", SERVER)
    assert result.exit_code == 0
    assert result.stdout.startswith(
        "UDP and TCP get through. There is no NAT and no firewall: anybody can reach you.\n"
    )
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert result.stderr == ""


def test_json_is_exactly_one_document() -> None:
    result = run("classify", "-s", SERVER, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["schema"] == "natprobe.report/1"
    assert told["ipv4"]["udp"]["reachable"]["value"] is True
    assert result.stderr == ""


def test_evidence_is_for_those_who_ask() -> None:
    assert "Evidence" not in run("classify", "-s", SERVER, "--only", "udp").stdout
    assert "Evidence" in run("classify", "-s", SERVER, "--only", "udp", "-v").stdout


@pytest.mark.parametrize(("only", "other"), [("udp", "tcp"), ("tcp", "udp")])
def test_only_one_protocol_is_tested_where_one_is_named(only: str, other: str) -> None:
    told = json.loads(run("classify", "-s", SERVER, "--only", only, "--json").stdout)
    assert told["ipv4"][only]
    assert told["ipv4"][other] is None


def test_several_servers_are_asked_in_one_run() -> None:
    told = json.loads(run("classify", "-s", SERVER, "--server", ALONE, "--json", "--quick").stdout)
    assert [server["name"] for server in told["servers"]] == [SERVER, ALONE]


def test_both_ip_versions_are_what_is_meant_by_naming_both() -> None:
    both, none = (run("classify", "-s", SERVER, *flags, "--json") for flags in (["-4", "-6"], []))
    for result in (both, none):
        assert json.loads(result.stdout)["ipv4"]


def test_source_and_port_are_those_that_were_asked_for() -> None:
    port = free_port(f"{HOST}.50")
    told = json.loads(run("classify", "-s", SERVER, "--source", f"{HOST}.50", "--port", str(port), "--json").stdout)
    assert told["vantage"]["ipv4"] == f"{HOST}.50"
    mapping = {fact["local"] for fact in told["observations"] if fact.get("purpose") == "mapping"}
    assert mapping == {f"{HOST}.50:{port}"}


def free_port(address: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def test_what_is_not_determined_shows_in_the_status() -> None:
    result = run("classify", "-s", ALONE)
    assert result.exit_code == 3
    assert "not determined" in result.stdout
    assert "only one address" in " ".join(result.stdout.split())


# --- classify: what cannot be done ------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_named_within_two_seconds() -> None:
    begun = time.monotonic()
    said = failed_in_one_line(run("classify", "-s", NOBODY))
    assert time.monotonic() - begun < 2
    assert f"{NOBODY} over UDP: port unreachable" in said
    assert f"{NOBODY} over TCP: connection refused" in said
    assert "name another server with -s" in said


def test_a_name_that_stands_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(_network: HostNetwork, host: str, version: int) -> tuple[()]:
        raise NameNotFound(f"{host}: no IPv{version} address found")

    monkeypatch.setattr(HostNetwork, "resolve", resolve)
    said = failed_in_one_line(run("classify", "-s", "nobody.invalid"))
    assert "nobody.invalid" in said
    assert "check the name" in said


def test_a_name_can_do_nothing_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    test_a_name_that_stands_for_nothing(monkeypatch)
    assert r"\x1b[2J" in failed_in_one_line(run("classify", "-s", "\x1b[2J.invalid"))


def test_a_server_without_an_address_of_the_family_that_was_asked_for() -> None:
    assert "no IPv6 address found" in failed_in_one_line(run("classify", "-s", SERVER, "-6"))


@pytest.mark.parametrize("only", ["udp", "tcp"])
def test_a_local_port_that_is_in_use(only: str) -> None:
    kind = socket.SOCK_DGRAM if only == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind((ADDRESSES[0], 0))
        if only == "tcp":
            taken.listen()
        port = taken.getsockname()[1]
        result = run("classify", "-s", SERVER, "--source", ADDRESSES[0], "--port", str(port), "--only", only)
    assert f"local port {port} is in use" in failed_in_one_line(result)


def test_a_source_that_is_not_this_hosts() -> None:
    assert "198.51.100.77 is not an address of this host" in failed_in_one_line(
        run("classify", "-s", SERVER, "--source", "198.51.100.77")
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify", "-s", SERVER, "--only", "sctp"],
        ["classify", "-s", SERVER, "--port", "x"],
        ["classify", "-s", SERVER, "--port", "65536"],
        ["classify", "-s", SERVER, "--source", "nonsense"],
        ["classify", "-s", SERVER, "-6", "--source", "127.0.0.1"],
        ["classify", "-s", "host:99999"],
        ["classify", "-s", "[::1"],
        ["classify", "-s", ""],
        ["classify", "--no-such-option"],
        ["classify", "surplus"],
        ["no-such-command"],
        ["explain"],
        ["predict", "only-one.json"],
        ["predict", "-", "-"],
        ["reflect"],
        ["reflect", "--address", "nonsense"],
        ["reflect", "--address", "127.0.0.1", "--port", "x"],
        ["reflect", "--address", "127.0.0.1", "--web", "x"],
        ["lab", "run", "no-such-policy"],
        ["lab", "run", '{"mapping": "sideways"}'],
        ["lab", "up", "--policy", "no-such-policy"],
        [],
    ],
    ids=lambda arguments: " ".join(arguments).replace(SERVER, "SERVER"),
)
def test_usage(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert result.stdout == "" or not arguments  # no command at all: the help


# --- classify: files --------------------------------------------------------------------------------------------------


def test_a_saved_report_is_the_one_that_was_shown(tmp_path: Path) -> None:
    saved, page = tmp_path / "report.json", tmp_path / "report.html"
    result = run("classify", "-s", SERVER, "--json", "--save", str(saved), "--html", str(page))
    assert result.exit_code == 0
    assert saved.read_text() == result.stdout
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert run("explain", str(saved), "--json").stdout == result.stdout


@pytest.mark.parametrize("option", ["--save", "--html"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_sent(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(natprobe, "classify", None)
    for place in (tmp_path, tmp_path / "no" / "such" / "directory"):
        assert str(place) in failed_in_one_line(run("classify", "-s", SERVER, option, str(place)))


def test_files_are_left_alone_by_a_run_that_fails(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.html"
    old.write_text("what was there")
    failed_in_one_line(run("classify", "-s", NOBODY, "--only", "udp", "--save", str(old), "--html", str(new)))
    assert old.read_text() == "what was there"
    assert not new.exists()


# --- classify: no server named ----------------------------------------------------------------------------------------


def test_servers_may_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATPROBE_SERVERS", f"{SERVER}, {ALONE}")
    told = json.loads(run("classify", "--json").stdout)
    assert [server["name"] for server in told["servers"]] == [SERVER, ALONE]


def test_an_environment_that_names_nothing_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATPROBE_SERVERS", " ,")
    assert "NATPROBE_SERVERS" in failed_in_one_line(run("classify"), status=2)


def test_the_built_in_servers_are_of_several_operators_and_serve_what_is_tested() -> None:
    assert len({server.host.split(".")[-2] for server in SERVERS if server.udp and server.tcp}) >= 4
    assert sum(server.rfc5780 for server in SERVERS) >= 3
    both = default_servers(["udp", "tcp"], {})
    assert set(both) < set(default_servers(["udp"], {}))
    assert both[0] == f"{SERVERS[0].host}:{SERVERS[0].port}"


def test_the_built_in_servers_are_asked_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def classify(servers: list[str], **_: Any) -> Report:
        asked.extend(servers)
        return Report.loads((RECORDED / "eim-apdf.json").read_text())

    monkeypatch.setattr(natprobe, "classify", classify)
    assert run("classify", "--only", "tcp").exit_code == 0
    assert asked == default_servers(["tcp"], {})


# --- explain ----------------------------------------------------------------------------------------------------------


def test_explain_shows_the_evidence_unless_told_not_to() -> None:
    path = str(RECORDED / "eim-apdf.json")
    assert "Evidence" in run("explain", path).stdout
    assert "Evidence" not in run("explain", path, "-q").stdout


def test_explain_reads_stdin() -> None:
    result = run("explain", "-", "--json", stdin=(RECORDED / "eim-apdf.json").read_text())
    assert json.loads(result.stdout)["ipv4"]["udp"]["mapping"]["value"] == "endpoint-independent"


def test_explain_makes_a_page(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert run("explain", str(RECORDED / "firewall.json"), "--html", str(page)).exit_code == 0
    assert "symmetric UDP firewall" in page.read_text()


def test_explain_tells_what_is_not_determined_by_its_status(tmp_path: Path) -> None:
    saved = tmp_path / "report.json"
    assert run("classify", "-s", ALONE, "--save", str(saved)).exit_code == 3
    assert run("explain", str(saved)).exit_code == 3


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no such file"),
        (b"", "not JSON"),
        (b"\xff\xfe", "decode"),
        (b'{"schema": "something else"}', "natprobe.report/1"),
        (b'{"schema": "natprobe.report/1", "observations": 7}', "array"),
    ],
)
def test_explain_refuses_what_is_no_report(content: bytes | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content)
    said = failed_in_one_line(run("explain", str(path)))
    assert str(path) in said
    assert why in said


def test_explain_refuses_a_directory(tmp_path: Path) -> None:
    assert "is a directory" in failed_in_one_line(run("explain", str(tmp_path)))


# --- predict ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def neighbour(tmp_path: Path) -> Path:
    """A report from behind another address than the recorded ones."""
    file = tmp_path / "neighbour.json"
    file.write_text((RECORDED / "eim-apdf.json").read_text().replace("198.51.100.1:", "198.51.100.2:"))
    return file


def test_predict_says_in_one_sentence_what_it_comes_to(neighbour: Path) -> None:
    result = run("predict", str(RECORDED / "eim-apdf.json"), str(neighbour))
    assert result.exit_code == 0
    assert result.stdout.startswith("Over UDP and TCP these two probably connect directly.\nA is ")
    assert "UDP over IPv4: direct, by srflx-srflx (likely)\n  A's packets get in at B" in result.stdout
    assert all(len(line) <= 80 or str(neighbour) in line for line in result.stdout.splitlines())


def test_predict_reads_one_of_them_from_stdin_and_writes_json(neighbour: Path) -> None:
    recorded = (RECORDED / "apdm-adf.json").read_text()
    result = run("predict", "-", str(neighbour), "--json", stdin=recorded)
    value = json.loads(result.stdout)
    assert (value["schema"], value["udp"]["outcome"]) == ("natprobe.prediction/1", "relay")


def test_predict_tells_what_is_not_known_by_its_status(tmp_path: Path) -> None:
    saved = tmp_path / "report.json"
    run("classify", "-s", ALONE, "--save", str(saved))
    result = run("predict", str(saved), str(RECORDED / "apdm-adf.json"))
    assert result.exit_code == 3
    assert "may or may not connect" in result.stdout


def test_predict_names_the_file_that_is_no_report(neighbour: Path) -> None:
    assert "cannot read nowhere.json: no such file" in failed_in_one_line(
        run("predict", str(neighbour), "nowhere.json")
    )


# --- the lab, where there is none -------------------------------------------------------------------------------------


def test_a_lab_in_memory_cannot_be_entered() -> None:
    assert "namespaces or docker" in failed_in_one_line(run("lab", "run", "eim-apdf", "--backend", "memory"))


@pytest.mark.parametrize("command", [["demo"], ["lab", "run", "eim-apdf", "--backend", "namespaces"]])
def test_a_missing_program_is_named_with_its_package(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert "apt install" in failed_in_one_line(run(*command))


def test_the_policies_are_listed() -> None:
    result = run("lab", "list")
    assert result.exit_code == 0
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("eim-apdf ")]
    assert line.split() == ["eim-apdf", "EI", "APD", "EI", "APD", "sequential"]


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["classify", "--help"], ["lab", "run", "--help"]])
def test_help_is_a_result(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 0
    assert result.stdout
    assert result.stderr == ""


@pytest.mark.slow
def test_a_classification_loads_only_what_it_needs() -> None:
    program = f"""
import atexit, sys
from natprobe.cli import main
sys.argv = ["natprobe", "classify", "-s", "{SERVER}", "--json"]

@atexit.register
def tell():
    print(*{{name.partition(".")[0] for name in sys.modules}}, "natprobe.lab" in sys.modules, file=sys.stderr)

main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stderr.split()
    assert loaded[-1] == "False"
    assert not {"rich", "jinja2", "pydantic", "yaml", "hypothesis"} & set(loaded)


@contextlib.contextmanager
def silent_server() -> Iterator[tuple[str, socket.socket]]:
    """Give a server that takes what it is sent, over UDP and TCP, and never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        tcp.bind((f"{HOST}.60", 0))
        tcp.listen()
        udp.bind(tcp.getsockname())
        udp.settimeout(10)
        yield f"{HOST}.60:{tcp.getsockname()[1]}", udp


@pytest.mark.slow
def test_ctrl_c_ends_a_run_quietly(tmp_path: Path) -> None:
    with silent_server() as (server, udp), start("classify", "-s", server, "--save", str(tmp_path / "x")) as process:
        udp.recv(2000)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 130
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["typer.main", "asyncio", "natprobe.report", "natprobe.sockets"])
def test_ctrl_c_is_heard_while_modules_are_still_loaded(module: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "natprobe", "classify", "-s", NOBODY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any(line.rstrip().endswith(f" {module}") for line in process.stderr)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=10)
    assert "Traceback" not in stderr
    assert stdout == ""
    assert process.returncode == 130


@pytest.mark.slow
def test_a_pipe_that_nobody_reads_is_no_failure() -> None:
    with start("classify", "-s", SERVER, "-v") as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.slow
def test_a_reflector_serves_until_ctrl_c() -> None:
    with start("reflect", "--address", f"{HOST}.70", "--port", "4000") as process:
        assert process.stderr
        assert process.stderr.readline().startswith(f"serving {HOST}.70:4000")
        assert run("classify", "-s", f"{HOST}.70:4000", "--only", "udp").exit_code == 3
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=10)
    assert stdout == ""
    assert "Traceback" not in stderr
    assert process.returncode == 130


def test_a_reflectors_port_that_is_in_use_is_named() -> None:
    assert "port 3478" in failed_in_one_line(run("reflect", "--address", ADDRESSES[0]))


@pytest.mark.slow
@pytest.mark.parametrize(("web", "port"), [(["--web"], 8080), (["--web", "8123"], 8123)])
def test_a_reflector_serves_a_page_beside_what_it_serves(web: list[str], port: int) -> None:
    with start("reflect", *web, "--address", f"{HOST}.71", "--port", "4000") as process:
        assert process.stderr
        assert process.stderr.readline() == f"the page for browsers is http://{HOST}.71:{port}/\n"
        assert process.stderr.readline().startswith(f"serving {HOST}.71:4000")
        with urllib.request.urlopen(f"http://{HOST}.71:{port}/", timeout=10) as page:
            assert b"natprobe" in page.read()
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=10)
    assert stdout == ""
    assert "Traceback" not in stderr
    assert process.returncode == 130


def test_a_page_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "natprobe.page.server", raising=False)
    said = failed_in_one_line(run("reflect", "--address", f"{HOST}.72", "--web"))
    assert "pip install 'natprobe[web]'" in said


def test_the_pages_port_that_is_in_use_is_named() -> None:
    with socket.create_server((f"{HOST}.73", 0)) as taken:
        where = f"{HOST}.73:{taken.getsockname()[1]}"
        said = failed_in_one_line(run("reflect", "--address", f"{HOST}.73", "--web", where.rpartition(":")[2]))
    assert where in said


def on_a_terminal(*arguments: str, **variables: str) -> str:
    """Return all that a command shows on a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", **variables}
    with start(*arguments, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:
            while select.select([terminal], [], [], 10)[0] and (chunk := terminal.read(4096)):
                shown += chunk
    assert process.returncode == 0
    return shown.decode()


@pytest.mark.slow
def test_on_a_terminal_there_is_colour_and_progress() -> None:
    shown = on_a_terminal("classify", "-s", SERVER)
    assert "\x1b[32mconfirmed" in shown
    progress, erased, result = shown.rpartition("\r\x1b[2K")
    assert f"hello UDP {SERVER}: answered" in progress
    assert erased
    assert "UDP and TCP get through" in result


@pytest.mark.slow
def test_a_terminal_may_do_without_colour() -> None:
    shown = on_a_terminal("classify", "-s", SERVER, NO_COLOR="1")
    assert "confirmed" in shown
    assert "\x1b[" not in shown.rpartition("\r\x1b[2K")[2]
