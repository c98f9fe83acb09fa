"""The dry run: what verbs would do is told, and nothing is done."""

from __future__ import annotations

import pytest

from libcnm.controller.controller import Controller
from libcnm.errors import AlreadyExists, Forbidden, InUse, NotFound
from libcnm.testing.world import FakeHost


def attach(cnm: Controller) -> object:
    """From nothing to a published endpoint, on a bridge and on an overlay."""
    box = cnm.create_sandbox("c1")
    cnm.create_network("near", subnets=["10.1.0.0/24"]).create_endpoint("a", ports=["8080:80"]).join(box)
    return cnm.create_network("far", "overlay", subnets=["10.2.0.0/24"]).create_endpoint("b").join(box)


def test_a_plan_tells_everything_and_does_nothing(cnm: Controller, host: FakeHost) -> None:
    """Kernel, stores and files are as before; the plan has what the verbs then do."""
    before = host.everything()
    points = len(host.tape.points)
    plan = cnm.plan(attach)
    assert points == len(host.tape.points), "no effect of any door"
    assert before == host.everything()
    planned = [(change.operation, change.resource.kind) for change in plan.changes]
    assert {"namespace", "bridge", "veth", "vxlan", "address", "route", "firewall-element"} <= {k for _, k in planned}
    assert {"network", "endpoint", "sandbox", "attached"} <= {key.partition("/")[0] for key in plan.written}
    assert [] == cnm.networks()
    assert "+ link host br-" in str(plan)
    attach(cnm)
    assert [] == cnm.doctor()


def test_a_plan_goes_on_from_what_is_there(cnm: Controller, host: FakeHost) -> None:
    """Refusals are those of the real thing; an end takes away what a beginning made."""
    attach(cnm)
    before = host.everything()
    with pytest.raises(AlreadyExists):
        cnm.plan(lambda dry: dry.create_network("near"))
    with pytest.raises(InUse):
        cnm.plan(lambda dry: dry.network("near").endpoint("a").join(dry.sandbox("c1")))
    with pytest.raises(NotFound):
        cnm.plan(lambda dry: dry.network("nowhere"))
    plan = cnm.plan(lambda dry: dry.sandbox("c1").delete())
    assert {"delete"} <= {change.operation for change in plan.changes}
    assert any(key.startswith("sandbox/") for key in plan.deleted)
    assert before == host.everything()


def test_a_plan_of_nothing_is_empty_and_runs_no_program(cnm: Controller) -> None:
    """Looking is no change; a program cannot be planned."""
    attach(cnm)
    plan = cnm.plan(lambda dry: dry.network("near").inspect())
    assert ((), (), ()) == (plan.changes, plan.written, plan.deleted)
    with pytest.raises(Forbidden, match="starts no process"):
        cnm.plan(lambda dry: dry.sandbox("c1").run(["true"]))
