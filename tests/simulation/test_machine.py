"""Random verbs, crashes, reboots and vandalism on two hosts with two processes each, beside a plain model."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from libcnm.testing.machine import ControllerMachine

EXAMPLES = 60
STEPS = 40


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_controllers_do_what_the_model_says() -> None:
    """Every verb succeeds or ends with the typed error that the model predicts; nothing is doubled or left behind."""
    quick = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, suppress_health_check=list(HealthCheck), print_blob=True
    )
    run_state_machine_as_test(ControllerMachine, settings=quick)
