"""The live :class:`Endpoint`: an identity, the last record read, and the verbs on it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from libcnm.controller import membership, port_claims
from libcnm.controller.handles import SandboxHandle, own_record
from libcnm.controller.recovery import after_recovery
from libcnm.controller.requests import attached_before
from libcnm.errors import Forbidden, NotFound
from libcnm.model.addresses import IPAddress, IPInterface
from libcnm.model.arguments import flag
from libcnm.model.ports import Port
from libcnm.model.records import EndpointRecord, NetworkRecord

if TYPE_CHECKING:
    from libcnm.controller.calls import Call, Calls


class Endpoint:
    """A place in a network: a name, addresses, a MAC. It belongs to one network and is in one sandbox at most."""

    def __init__(self, calls: Calls, network: NetworkRecord, record: EndpointRecord) -> None:
        self._calls = calls
        self._network = network
        self._record = record

    def __repr__(self) -> str:
        return f"<Endpoint {self.name!r} {self.id[:12]} of {self.network!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Endpoint) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self._record.id

    @property
    def name(self) -> str:
        """Unique within its network; what others resolve."""
        return self._record.name

    @property
    def network(self) -> str:
        """The network's name, for people: in another scope there may be a network of the same name."""
        return self._network.name

    @property
    def network_id(self) -> str:
        """The network's id: ``Controller.network(endpoint.network_id)`` is that network and no other."""
        return self._network.id

    @property
    def aliases(self) -> tuple[str, ...]:
        """Its further names."""
        return self._record.aliases

    @property
    def addresses(self) -> tuple[IPInterface, ...]:
        """Its addresses with their prefix lengths, IPv4 first."""
        return self._record.addresses

    @property
    def mac(self) -> str:
        """The MAC of its interface; empty on null and host networks."""
        return self._record.mac

    @property
    def labels(self) -> Mapping[str, str]:
        """The user's own labels."""
        return dict(self._record.labels)

    @property
    def sandbox(self) -> str | None:
        """The container id of the sandbox it is in (on whichever host), as of the last read; None when it is in
        none.
        """
        place = self._record.attachment
        return None if place is None else place.container_id

    @property
    def sandbox_id(self) -> str | None:
        """The id of that sandbox. Where :attr:`host` is this host, ``Controller.sandbox(endpoint.sandbox_id)`` is it;
        other hosts' sandboxes are known to their own hosts alone, and may have the same container ids as ours.
        """
        place = self._record.attachment
        return None if place is None else place.sandbox_id

    @property
    def host(self) -> str | None:
        """The host of that sandbox."""
        place = self._record.attachment
        return None if place is None else place.host

    @property
    def interface(self) -> str | None:
        """Its interface's name inside the sandbox."""
        place = self._record.attachment
        return None if place is None else place.interface

    @property
    def is_way_out(self) -> bool:
        """True for the one that libcnm has given a sandbox whose other networks have no gateway: it has no name in DNS,
        and comes and goes with the need for it.
        """
        return bool(self._record.gateway_of) and self._network.scope == "local"

    @property
    def ports(self) -> tuple[Port, ...]:
        """Its published ports: as bound while it is attached, as asked for otherwise."""
        place = self._record.attachment
        return self._record.ports if place is None else place.ports

    def join(
        self, sandbox: SandboxHandle, *, priority: int = 0, timeout: float | None = None, request_id: str | None = None
    ) -> Endpoint:
        """Attach it to a sandbox of this host. On return it has its interface, and its names answer on this host.

        ``priority``: among a sandbox's endpoints the highest provides the default route and the published ports. Where
        none has a gateway (overlay networks), the sandbox gets a way out beside them, see :attr:`is_way_out`. Raises
        InUse (attached already), Forbidden (the sandbox is not ready; subnets overlap; host and bridge networks mixed),
        AlreadyExists (a port is taken), NotFound, KernelError. Whatever fails leaves nothing behind. libnetwork: Join.
        """
        record = own_record(sandbox, self._calls)
        with (
            self._calls.verb(timeout, request_id) as call,
            call.request("join", self._subject, self.id, record.id, priority) as request,
        ):
            if request.is_done:
                self._record = attached_before(call.context, self._network, self._record, request, call.deadline)
                return self
            self._record = after_recovery(
                call.context,
                call.deadline,
                lambda: membership.join(
                    call.context,
                    self._network,
                    self._record,
                    record,
                    call.deadline,
                    priority=priority,
                    request=request,
                ),
            )
        return self

    def leave(
        self, sandbox: SandboxHandle | None = None, *, timeout: float | None = None, request_id: str | None = None
    ) -> None:
        """Detach it; it keeps its name and addresses. ``sandbox``, if given, must be the one it is in.

        Raises Forbidden (in no sandbox; in another one), InUse (in a sandbox of another host), NotFound. libnetwork:
        Leave.
        """
        given = None if sandbox is None else own_record(sandbox, self._calls)
        with (
            self._calls.verb(timeout, request_id) as call,
            call.request("leave", self._subject, self.id, "" if given is None else given.id) as request,
        ):
            if request.is_done:
                with suppress(NotFound):  # deleted since, perhaps
                    self._record = self._read(call)
                return
            self._record = self._read(call)
            place = self._record.attachment
            if given is not None and place is not None and place.sandbox_id != given.id:
                raise Forbidden(
                    f"endpoint {self.name!r} is in sandbox {place.container_id!r}, not in {given.container_id!r}"
                )
            membership.leave(call.context, self._network, self._record, call.deadline, request)
            self._record = self._read(call)

    def inspect(self, *, timeout: float | None = None) -> dict[str, object]:
        """The endpoint as plain data, ``Reachable`` saying for each port who can reach it."""
        with self._calls.verb(timeout) as call:
            self._record = self._read(call)
            known = self._record.attachment is None or self._record.attachment.host == call.context.host_name
            here = partial(port_claims.is_here, call.context)
        from libcnm.controller.inspect import endpoint_as_dict

        return endpoint_as_dict(self._network, self._record, here if known else _perhaps)

    def _read(self, call: Call) -> EndpointRecord:
        network = self._network
        return call.context.endpoint(network.scope, network.id, self.id, call.deadline, name=self.name).record

    def delete(self, *, force: bool = False, timeout: float | None = None, request_id: str | None = None) -> None:
        """Delete it and free its name and addresses. Attached, it is InUse, unless ``force`` (on its own host).

        Raises InUse (the container and the host that have it), NotFound. libnetwork: Endpoint.Delete.
        """
        forced = flag(force, "force")
        with (
            self._calls.verb(timeout, request_id) as call,
            call.request("delete_endpoint", self._subject, self.id, forced) as request,
        ):
            if request.is_done:
                return
            after_recovery(
                call.context,
                call.deadline,
                lambda: membership.delete_endpoint(
                    call.context, self._network, self._record, call.deadline, force=forced, request=request
                ),
            )

    @property
    def _subject(self) -> str:
        return f"endpoint {self.name!r} of network {self._network.name!r}"


def _perhaps(_address: IPAddress) -> bool:
    """Which addresses another host has is not known here."""
    return True
