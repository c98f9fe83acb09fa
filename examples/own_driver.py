"""A network driver of your own, with a resource kind of its own, on a fake host: no root, no kernel, no entry point.

Installed, it is found by name: ``[project.entry-points."libcnm.drivers"]``, ``cable = "your_package:CableDriver"``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import attrs

from libcnm import Change, KernelError, Registry, Resource
from libcnm.contracts.driver import Capabilities, Driver, HostFacts, NetworkView, ResourceDoor
from libcnm.model.deadline import Deadline
from libcnm.model.records import EndpointRecord
from libcnm.model.resource import Identity, Observed
from libcnm.testing import FakeWorld


@attrs.frozen
class Plug(Resource):
    kind: ClassVar[str] = "plug"
    socket: str

    @property
    def identity(self) -> Identity:
        return (self.kind, "", self.socket)


class Board:  # what the plugs are in: a switch, a hypervisor, a controller elsewhere
    def __init__(self) -> None:
        self.plugs: set[Resource] = set()

    def apply(self, changes: tuple[Change, ...], *, deadline: Deadline) -> tuple[KernelError | None, ...]:
        for change in changes:
            (self.plugs.discard if change.operation == "delete" else self.plugs.add)(change.resource)
        return (None,) * len(changes)

    def read_one(self, resource: Resource, *, deadline: Deadline) -> Observed | None:
        return Observed(resource, ours=True) if resource in self.plugs else None


class CableDriver(Driver):
    name: ClassVar[str] = "cable"
    capabilities: ClassVar[Capabilities] = Capabilities(addresses=False, gateway=False)
    board: ClassVar[Board] = Board()

    def endpoint(self, host: HostFacts, network: NetworkView, endpoint: EndpointRecord) -> Iterator[Resource]:
        yield Plug(f"{network.record.name}/{endpoint.name}")

    def doors(self) -> Mapping[type[Resource], ResourceDoor]:
        return {Plug: self.board}


with FakeWorld() as world, world.host().controller(registry=Registry({"cable": CableDriver()})) as cnm:
    cnm.create_network("lan", "cable").create_endpoint("db").join(cnm.create_sandbox("c1"))
    CableDriver.board.plugs.clear()  # somebody pulls it
    print(*cnm.heal(), *CableDriver.board.plugs, cnm.plan(lambda dry: dry.sandbox("c1").delete()), sep="\n")
