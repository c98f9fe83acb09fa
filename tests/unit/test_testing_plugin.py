"""The pytest plugin that users get: each fixture does what it says, in a pytest of its own; and the worlds it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from libcnm.errors import NotFound
from libcnm.testing.world import FakeWorld

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[2]


def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, code: str) -> pytest.RunResult:
    """Run a test file with the plugin, in a child process: fixtures that fail must not fail this session."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(code)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error")


@pytest.mark.slow
def test_fake_fixtures(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller to use at once; worlds of any size, each its own, the same for the same seed."""
    result = run(
        pytester,
        monkeypatch,
        """
        from libcnm.kv.memory import CONSUL_LIKE

        def test_controller(cnm_controller):
            endpoint = cnm_controller.create_network("blue", subnets=["10.1.0.0/24"]).create_endpoint("web")
            endpoint.join(cnm_controller.create_sandbox("c1"))
            assert [] == cnm_controller.doctor()

        def test_overlay(cnm_controller):
            assert "global" == cnm_controller.create_network("wide", "overlay").scope

        def test_worlds(cnm_world):
            ids = []
            for seed in (1, 1, 2):
                world = cnm_world(("one", "two"), seed=seed, profile=CONSUL_LIKE)
                with world.host("one").controller() as one, world.host("two").controller() as two:
                    ids.append(one.create_network("net", "overlay").id)
                    assert ids[-1] == two.network("net").id
            assert ids[0] == ids[1] != ids[2]
        """,
    )
    result.assert_outcomes(passed=3)


def test_a_world_has_the_hosts_that_it_was_made_with() -> None:
    """The first one without a name; one that is not there is NotFound, and the error says which are."""
    with FakeWorld(("a", "b")) as world:
        assert (world.host("a"), "b") == (world.host(), world.host("b").name)
        with pytest.raises(NotFound, match="this world has a, b"):
            world.host("host-1")


@pytest.mark.slow
def test_leaks_are_found(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread, a process or an open file that outlives its test is an error that shows it; a clean test is none."""
    result = run(
        pytester,
        monkeypatch,
        """
        import subprocess, sys, threading

        import libcnm.testing.plugin as plugin

        plugin._PATIENCE = 0.2
        kept = []

        def test_clean(cnm_no_leaks, cnm_controller):
            with cnm_controller.create_sandbox("c1"), open(__file__) as file:
                file.read()

        def test_file(cnm_no_leaks):
            kept.append(open(__file__))

        def test_thread(cnm_no_leaks):
            event = threading.Event()
            kept.append(event)
            threading.Thread(target=event.wait, name="forgotten", daemon=True).start()

        def test_end():
            kept[0].close()
            kept[1].set()
        """,
    )
    result.assert_outcomes(passed=4, errors=2)
    result.stdout.fnmatch_lines(["*the test has left behind*", "*fds: *test_leaks_are_found.py*", "*threads: *"])


@pytest.mark.slow
@pytest.mark.kernel
def test_lab_fixture(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hosts on the real kernel, in whatever namespaces the session is in; nothing is left of them."""
    result = run(
        pytester,
        monkeypatch,
        """
        def test_lab(cnm_no_leaks, cnm_lab):
            one, two = cnm_lab.hosts
            assert one.name != two.name
        """,
    )
    result.assert_outcomes(passed=1)


@pytest.mark.slow
def test_lab_fixture_where_there_are_no_namespaces(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """It skips, and says why."""
    result = run(
        pytester,
        monkeypatch,
        """
        import libcnm.lab
        from libcnm.errors import NotSupported

        class Impossible:
            def __enter__(self):
                raise NotSupported("user namespaces are switched off")

            def __exit__(self, *error):
                pass

        libcnm.lab.Lab = Impossible

        def test_lab(cnm_lab):
            raise AssertionError
        """,
    )
    result.assert_outcomes(skipped=1)
    result.stdout.no_fnmatch_line("*AssertionError*")


@pytest.mark.slow
def test_the_plugin_costs_nothing_until_it_is_used(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest loads it in every run of every project that has libcnm: nothing else of libcnm comes along."""
    result = run(
        pytester,
        monkeypatch,
        """
        import sys

        def test_nothing():
            loaded = {name for name in sys.modules if name.partition(".")[0] in ("libcnm", "pyroute2", "stevedore")}
            assert {"libcnm", "libcnm.testing", "libcnm.testing.plugin"} == loaded
        """,
    )
    result.assert_outcomes(passed=1)
