"""Fixtures of the kernel tier: an installation of its own for each test, on the session's private host."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libcnm.controller.controller import Controller
from libcnm.controller.resident_link import stop_resident

OpenController = Callable[..., Controller]


@pytest.fixture
def installation(tmp_path: Path) -> dict[str, Any]:
    """Where the test's installation is; for other processes, too."""
    return {"state_dir": str(tmp_path / "state"), "run_dir": str(tmp_path / "run"), "guardian": os.getpid()}


@pytest.fixture
def open_controller(installation: dict[str, Any]) -> Iterator[OpenController]:
    """Open the test's installation, as often as the test likes; in the end everything in it is deleted."""
    opened: list[Controller] = []

    def open_one(**options: Any) -> Controller:
        controller = Controller(**{**installation, **options})
        opened.append(controller)
        return controller

    yield open_one
    last = Controller(**{**installation, "resident": "off"})
    try:
        for sandbox in last.sandboxes():
            sandbox.delete()
        for network in last.networks():
            network.delete(force=True)
        stop_resident(last._calls.context, last._calls.context.doors.clock.deadline(5))
    finally:
        for controller in [*opened, last]:
            controller.close()


@pytest.fixture
def cnm(open_controller: OpenController) -> Controller:
    """A controller on the test's installation."""
    return open_controller()
