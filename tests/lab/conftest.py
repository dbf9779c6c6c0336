"""The lab as a fixture: up once for each backend, whatever the number of tests; each test applies its own policies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from natprobe.errors import LabUnavailable
from natprobe.lab.backend import Lab
from natprobe.lab.session import open_lab

ROOT = Path(__file__).parents[2]
BACKENDS = ["namespaces", pytest.param("docker", marks=pytest.mark.docker)]


def not_here(reason: object) -> NoReturn:
    """Skip, saying why; in CI, where nothing may be skipped, fail."""
    if os.environ.get("NATPROBE_LAB_COMPULSORY"):
        pytest.fail(f"a lab test cannot run: {reason}")
    pytest.skip(str(reason))


def build_image() -> None:
    """Make sure that Docker's lab runs this very checkout; takes no time if it does already."""
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        not_here("the Docker daemon does not answer")
    built = subprocess.run(
        [ROOT / "servers" / "build"],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        not_here(f"servers/build: {built.stderr}")


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend that works here."""
    name: str = request.param
    if name == "docker":
        try:
            build_image()
        except FileNotFoundError:
            not_here("Docker is not installed")
    return name


@pytest.fixture(scope="session")
def lab(backend: str) -> Iterator[Lab]:
    """A lab that is up."""
    try:
        lab = open_lab(backend)
    except LabUnavailable as missing:
        not_here(missing)
    with lab:
        yield lab
