"""The lab as a fixture: up once for each backend, whatever the number of tests; each test applies its own policies."""

from __future__ import annotations

import os
import shutil
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what brings up labs of its own in Docker, which has room for one: later the fixture's is up."""
    items.sort(key=lambda item: item.path.name != "test_aftermath.py")


def not_here(reason: object) -> NoReturn:
    """Skip, saying why; in CI, where nothing may be skipped, fail."""
    if os.environ.get("NATPROBE_LAB_COMPULSORY"):
        pytest.fail(f"a lab test cannot run: {reason}")
    pytest.skip(str(reason))


def prepare(backend: str) -> str:
    """Return the backend; for Docker, make sure that its image is of this very checkout, which it mostly is."""
    if backend == "docker":
        if not shutil.which("docker"):
            not_here("Docker is not installed")
        build = [ROOT / "servers" / "build"]
        environment = os.environ | {"PYTHON": sys.executable}
        built = subprocess.run(build, env=environment, capture_output=True, text=True, check=False)
        if built.returncode:
            not_here(built.stderr)
    return backend


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend."""
    return prepare(request.param)


@pytest.fixture(scope="session")
def lab(backend: str) -> Iterator[Lab]:
    """A lab that is up."""
    try:
        lab = open_lab(backend)
    except LabUnavailable as missing:
        not_here(missing)
    with lab:
        yield lab


def open_here(**options: object) -> Lab:
    """Return a lab in namespaces of the test's own."""
    try:
        return open_lab("namespaces", **options)
    except LabUnavailable as missing:
        not_here(missing)
