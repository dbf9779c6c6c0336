"""What a service, a script or another system gives a command to live in: streams, files, variables."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from natprobe.webrtc import check_ice_servers

RECORDED = Path(__file__).parent / "recorded" / "eim-apdf.json"
FIRST_LINE = "UDP and TCP get through. Your NAT"
EXPLAIN = f"explain {RECORDED} -q"


def shell(command: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``natprobe`` as a shell does, redirections and all."""
    environment = {**os.environ, **variables}
    line = f'natprobe() {{ "{sys.executable}" -m natprobe "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", line], capture_output=True, env=environment, timeout=30, check=False)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["2>&-", "<&-", "<&- 2>&-", "2>/dev/full", "2>/dev/null </dev/null"])
def test_a_result_needs_no_other_stream(streams: str) -> None:
    done = shell(f"natprobe {EXPLAIN} {streams}")
    assert done.returncode == 0
    assert done.stdout.decode().startswith(FIRST_LINE)
    assert done.stderr == b""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("streams", "why"),
    [
        (">&-", "it is closed"),
        (">&- <&-", "it is closed"),
        (">/dev/full", "no space left on device"),
        ("1</dev/null", "bad file descriptor"),
    ],
)
@pytest.mark.parametrize("command", [EXPLAIN, "lab list", "--version"])
def test_a_result_that_cannot_be_written_is_a_failure_in_one_line(command: str, streams: str, why: str) -> None:
    done = shell(f"natprobe {command} {streams}")
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"natprobe: cannot write the result to stdout: {why}")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "status"),
    [
        (f"{EXPLAIN} >&- 2>&- <&-", 1),
        ("explain nowhere.json 2>/dev/full", 1),
        ("nonsense 2>/dev/full", 2),
        ("classify --nonsense 2>/dev/full", 2),
        ("--help >/dev/full", 1),
    ],
)
def test_where_nothing_can_be_said_the_status_says_it(command: str, status: int) -> None:
    assert shell(f"natprobe {command}").returncode == status


@pytest.mark.slow
def test_no_socket_gets_the_number_of_a_standard_stream() -> None:
    """What is written to a closed stdout must not go to a server."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.create_server(("127.0.0.1", 0)) as tcp:
        udp.bind(tcp.getsockname())

        def accept() -> None:
            connection, _ = tcp.accept()
            with connection:
                connection.settimeout(10)
                while data := connection.recv(4096):
                    heard.append(data)

        thread = threading.Thread(target=accept)
        thread.start()
        done = shell(f"natprobe classify -s 127.0.0.1:{tcp.getsockname()[1]} --only tcp <&- >&- 2>&-")
        thread.join()
    assert done.returncode == 1
    assert b"natprobe: " not in b"".join(heard)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16", "cp437"])
def test_a_result_is_written_in_any_encoding(encoding: str) -> None:
    done = shell(f"natprobe {EXPLAIN}", PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert done.stdout.decode(encoding).startswith(FIRST_LINE)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["-O", "-I", "-W error", "-P -O"])
def test_python_may_be_started_in_any_way(options: str) -> None:
    done = shell(f'"{sys.executable}" {options} -m natprobe {EXPLAIN}', TZ="No/Where", TERM="", COLUMNS="x", HOME="/no")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith(FIRST_LINE)


@pytest.mark.slow
def test_a_directory_that_is_gone_is_no_trouble(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    assert shell(f"cd {gone}; rmdir {gone}; natprobe {EXPLAIN}").returncode == 0
    assert b"no such file" in shell(f"cd {gone.parent}; mkdir gone; cd gone; rmdir {gone}; natprobe explain x").stderr


# --- files ------------------------------------------------------------------------------------------------------------


def explain(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "natprobe", "explain", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_report_is_read_as_editors_of_windows_write_it(encoding: str, files: Path) -> None:
    (files / "report").write_bytes(RECORDED.read_text().replace("\n", "\r\n").encode(encoding))
    status, told, _ = explain("report", "-q")
    assert (status, told.startswith(FIRST_LINE)) == (0, True)


def make(files: Path) -> Mapping[str, str]:
    """Make files of all kinds; return what is said of each where it is to be written, and "" where it can be."""
    (files / "directory").mkdir()
    os.mkfifo(files / "fifo")
    (files / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(files / "socket"))
    (files / "link").symlink_to("target")
    (files / "old").write_text("what was there")
    return {
        "directory": "is a directory",
        "fifo": "nothing reads from it",
        "loop": "too many levels of symbolic links",
        "socket": "nothing reads from it",
        "x" * 300: "file name too long",
        "no/such/place": "no such file or directory",
        "/dev/full": "no space left on device",
        "link": "",
        "old": "",
        "/dev/null": "",
        "\udcff": "",
    }


@pytest.mark.slow
def test_a_page_is_written_or_the_reason_is_told(files: Path) -> None:
    for name, why in make(files).items():
        status, told, said = explain(str(RECORDED), "-q", "--html", name)
        assert status == (1 if why else 0), name
        assert why in said
        assert bool(told) is not bool(why)
    assert (files / "link").is_symlink()
    assert all((files / name).read_text().startswith("<!DOCTYPE html>") for name in ("target", "old", "\udcff"))
    assert not list(files.glob(".natprobe*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["directory", "fifo", "loop", "socket", "x" * 300, "/dev/zero", "/dev/null", "-", "nowhere"]
)
def test_what_is_no_report_ends_in_one_line(name: str, files: Path) -> None:
    make(files)
    status, told, said = explain(name)
    assert (status, told, said.count("\n")) == (1, "", 1)


@pytest.mark.slow
def test_a_full_disk_keeps_the_old_file(files: Path) -> None:
    (files / "old").write_text("what was there")
    # 1 KiB is less than a page, and less than a module that Python would keep compiled.
    done = shell(f"ulimit -f 1; trap '' XFSZ; natprobe {EXPLAIN} --html old", PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 1
    assert b"cannot write old: file too large" in done.stderr
    assert (files / "old").read_text() == "what was there"
    assert [path.name for path in files.iterdir()] == ["old"]


@pytest.mark.slow
def test_stdout_carries_one_document(files: Path) -> None:
    assert explain(str(RECORDED), "--html", "-")[1].startswith("<!DOCTYPE html>")
    for options in (["--html", "-", "--json"], ["--html", "/dev/stdout", "--json"], ["--html", str(RECORDED)]):
        status, told, said = explain(str(RECORDED), *options)
        assert (status, told) == (2, "")
        assert "--html" in said
    assert list(files.iterdir()) == []
    assert json.loads(explain(str(RECORDED), "--json", "--html", "page")[1])["schema"] == "natprobe.report/1"


# --- variables --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stun_server() -> str:
    """Give a STUN URL that refuses at once."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        where = probe.getsockname()
    return f"stun:{where[0]}:{where[1]}"


@pytest.mark.parametrize("variable", ["SSLKEYLOGFILE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_a_variable_that_points_nowhere_is_named_and_the_others_are_checked(
    variable: str, monkeypatch: pytest.MonkeyPatch, stun_server: str
) -> None:
    monkeypatch.setenv(variable, "/nonexistent/file")
    tls, plain = await check_ice_servers(["turns:127.0.0.1", stun_server], timeout=1)
    assert (tls.state, plain.state) == ("not_checked", "refused")
    assert tls.reason == (
        f"{variable} names /nonexistent/file, which cannot be used (no such file or directory): correct or unset it"
    )


@pytest.mark.parametrize(
    ("username", "credential", "what"), [("us\udcff", "x", "username"), ("x", "\udcff", "credential")]
)
async def test_credentials_that_are_not_utf8_are_named_and_the_others_are_checked(
    username: str, credential: str, what: str, stun_server: str
) -> None:
    servers = [{"urls": ["turn:127.0.0.1", stun_server], "username": username, "credential": credential}]
    turn, stun = await check_ice_servers(servers, timeout=1)
    assert (turn.state, stun.state) == ("not_checked", "refused")
    assert f"the {what} is not UTF-8" in (turn.reason or "")
