"""The pytest plugin as a project sees it that has natprobe installed: loaded by pytest itself, and in nobody's way."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

NEEDS_A_LAB = """
    def test_connects(ice_pair): ice_pair("eim-eif", "eim-apdf")
    def test_stands(nat_lab): nat_lab.apply("home", None)
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """An empty project with a configuration of its own."""
    pytester.makeini("[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n")
    return pytester


@pytest.mark.slow
def test_a_project_that_uses_no_fixture_imports_nothing(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import sys

        def test_nothing_of_natprobe_but_the_plugin():
            loaded = {name for name in sys.modules if name.split(".")[0] == "natprobe"}
            assert loaded == {"natprobe", "natprobe.lab", "natprobe.lab.plugin"}
            assert not {"aioice", "aiortc", "msgspec", "typer", "rich"} & sys.modules.keys()
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.slow
def test_the_fixtures_are_listed_with_what_they_do(project: pytest.Pytester) -> None:
    listed = project.runpytest_subprocess("--fixtures").stdout
    listed.fnmatch_lines(["nat_lab *", "nat_lab_turn *", "ice_pair *", "fast_ice_failure *"])


@pytest.mark.slow
def test_fast_failure_holds_for_a_test_and_no_longer(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import aioice.stun

        def last(): return aioice.stun.RETRY_RTO * (2 ** (aioice.stun.RETRY_MAX + 1) - 1)

        def test_during(fast_ice_failure): assert last() < 2
        def test_after(): assert last() > 60
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=2)


@pytest.mark.slow
@pytest.mark.parametrize(("compulsory", "outcome"), [("", "skipped"), ("1", "errors")])
def test_where_there_can_be_no_lab_the_reason_is_told(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, compulsory: str, outcome: str
) -> None:
    monkeypatch.setenv("NATPROBE_LAB_COMPULSORY", compulsory)
    # As on a machine without its programs: it looks for them in PATH and in the directories of the system.
    project.makeconftest(
        """
        from natprobe.lab import namespaces
        namespaces._PATH = "/nowhere"
        """
    )
    project.makepyfile(NEEDS_A_LAB)
    ended = project.runpytest_subprocess("-rs")
    ended.assert_outcomes(**{outcome: 2})
    ended.stdout.fnmatch_lines(["*the lab needs unshare*apt install*"])


@pytest.mark.slow
def test_a_project_may_have_fixtures_of_the_same_name(project: pytest.Pytester) -> None:
    project.makeconftest("import pytest\n@pytest.fixture\ndef nat_lab(): return 'its own'\n")
    project.makepyfile("def test_own(nat_lab): assert nat_lab == 'its own'")
    project.runpytest_subprocess().assert_outcomes(passed=1)
