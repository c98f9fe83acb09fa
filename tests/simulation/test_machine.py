"""Random verbs, crashes, reboots and vandalism on two hosts with two processes each, beside a plain model."""

from __future__ import annotations

import os

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from libcnm.testing.machine import ControllerMachine

EXAMPLES = 40
ROUNDS_LEAST, ROUNDS_MOST = 3, 10
STEPS = 30
LEAST = 5
SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
# Shrinking takes minutes, and new runs every time find new things; `make soak` has both.
PHASES = tuple(Phase) if SOAK else (Phase.explicit, Phase.reuse, Phase.generate)
SEEN = (
    "create_network", "create_network: already-exists", "create_network: invalid",
    "create_endpoint: already-exists", "create_endpoint: exhausted", "join", "join: forbidden", "join: in-use", "leave",
    "leave: forbidden", "delete_network: in-use", "delete_endpoint: in-use", "crash create_network",
    "crash create_endpoint", "crash create_sandbox", "crash join", "crash leave", "crash delete_endpoint",
    "crash delete_network", "crash delete_sandbox", "reboot", "flush", "delete",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_controllers_do_what_the_model_says(stride: int) -> None:
    """Every verb succeeds or ends with the typed error that the model predicts; nothing is doubled or left behind.

    Round after round, each with a seed of its own: within one, Hypothesis goes on from what it has done before, and
    may hardly do some things at all.
    """
    ControllerMachine.counts.clear()
    rare: dict[str, int] = {}
    for number in range(ROUNDS_MOST if stride == 1 else 1):
        go_on(seed=None if SOAK else number, examples=EXAMPLES if stride == 1 else EXAMPLES // 2)
        rare = {what: ControllerMachine.counts[what] for what in SEEN if ControllerMachine.counts[what] < LEAST}
        if not rare and number + 1 >= ROUNDS_LEAST:
            break
    assert {} == rare or stride > 1, "a machine that hardly ever does something does not test it"


def go_on(seed: int | None, examples: int) -> None:
    """One round."""
    machine = ControllerMachine if seed is None else hypothesis.seed(seed)(ControllerMachine)
    quick = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        derandomize=False,
        phases=PHASES,
    )
    run_state_machine_as_test(machine, settings=quick if SOAK else settings(quick, database=None))
