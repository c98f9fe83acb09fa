"""The records that are stored: exactly the fields, no behaviour. :mod:`libcnm.model.codec` writes and reads them as
JSON.

Durable: networks, endpoints, claims. Scoped to one boot of one host: sandboxes, attachments, intents.
"""

from __future__ import annotations

from typing import Literal

import attrs

from libcnm.model.addresses import IPAddress, IPInterface, IPNetwork
from libcnm.model.pool import Pool
from libcnm.model.ports import Port

Scope = Literal["local", "global"]


@attrs.frozen
class Mark:
    """Who is deleting a network: the operation and its host. Creation of endpoints is refused while it stands."""

    operation: str
    host: str


@attrs.frozen
class NetworkRecord:
    """One network. ``vni`` belongs to overlays; ``created`` is seconds since the epoch, for people.

    ``on_demand``: libcnm has made it for ways out, and takes it away with the last of them.
    """

    id: str
    name: str
    driver: str
    scope: Scope
    pools: tuple[Pool, ...] = ()
    ipam_driver: str = "default"
    internal: bool = False
    options: dict[str, str] = attrs.field(factory=dict)
    labels: dict[str, str] = attrs.field(factory=dict)
    created: float = 0.0
    vni: int | None = None
    state: Literal["preparing", "ready", "deleting"] = "ready"
    operation: str = ""
    mark: Mark | None = None
    on_demand: bool = False

    @property
    def subnets(self) -> tuple[IPNetwork, ...]:
        """The subnets, in the order they were given. The pool of an IPAM that has no addresses (null) is everything,
        which is nobody's subnet.
        """
        return tuple(pool.subnet for pool in self.pools if pool.subnet.prefixlen)


@attrs.frozen
class Attachment:
    """Where an endpoint is attached. Only ``host`` may end it. ``ports`` are as they were bound, host ports chosen."""

    host: str
    sandbox_id: str
    container_id: str
    namespace: str
    interface: str
    hostname: str = ""
    priority: int = 0
    vtep: IPAddress | None = None
    ports: tuple[Port, ...] = ()
    state: Literal["preparing", "ready", "leaving"] = "preparing"
    operation: str = ""
    request_id: str = ""
    boot_id: str = ""


@attrs.frozen
class EndpointRecord:
    """One endpoint: its claims (name, addresses, MAC) and, while attached, where. ``addresses`` carry the pool's
    prefix. ``gateway_of`` is the sandbox whose way out libcnm has made it for; its ``ports`` are bound already, and
    claimed by the endpoints that they belong to.
    """

    id: str
    name: str
    network_id: str
    addresses: tuple[IPInterface, ...] = ()
    mac: str = ""
    aliases: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    options: dict[str, str] = attrs.field(factory=dict)
    labels: dict[str, str] = attrs.field(factory=dict)
    created: float = 0.0
    attachment: Attachment | None = None
    operation: str = ""
    gateway_of: str = ""


@attrs.frozen
class SandboxRecord:
    """One sandbox of this host, of boot ``boot_id``. ``namespace`` is the name of its pin ("" for the host's own); of
    one that was brought from the path ``source``, ``device`` and ``inode`` say which it is.
    """

    id: str
    container_id: str
    namespace: str
    boot_id: str
    device: int = 0
    inode: int = 0
    source: str | None = None
    hostname: str = ""
    domain: str = ""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: dict[str, str] = attrs.field(factory=dict)
    labels: dict[str, str] = attrs.field(factory=dict)
    created: float = 0.0


@attrs.frozen
class RequestNote:
    """What a ``request_id`` is used for: ``digest`` is that of the verb, its object and its arguments, and ``subject``
    names the object for people. ``result`` is the id of what the verb made.

    In the host's own store. Of an object of the cluster it is written before (``begun``: nobody knows yet whether it
    was done) and after. ``boot_id`` is empty unless the result ends with the boot, and the note with it.
    """

    id: str
    verb: str
    subject: str
    digest: str
    result: str = ""
    state: Literal["begun", "done"] = "begun"
    at: float = 0.0
    boot_id: str = ""


@attrs.frozen
class Intent:
    """A verb that has begun on this host. Half-done exactly when the locks in ``locks`` can be taken.

    Whoever brings it to its end, the verb or recovery, writes the note of its ``request`` with that.
    """

    operation: str
    verb: str
    scope: Scope
    locks: tuple[str, ...]
    network_id: str = ""
    endpoint_id: str = ""
    sandbox_id: str = ""
    attachment: Attachment | None = None
    started: float = 0.0
    boot_id: str = ""
    request: RequestNote | None = None


@attrs.frozen
class Presence:
    """A network's presence on this host: how many times its namespace was made here, and whether it is there now.

    ``active`` from the moment on that somebody begins to make it; ``ready`` once it is made, and peers can be
    programmed.
    """

    network_id: str
    epoch: int = 0
    active: bool = False
    ready: bool = False
    boot_id: str = ""


@attrs.frozen
class NameClaim:
    """A taken name: whose it is."""

    holder: str
    operation: str = ""


@attrs.frozen
class LedgerLine:
    """What a host remembers, in its own store, of an attachment of its own; its key says of which.

    Of an endpoint of the cluster it keeps the records as they were attached: what is in a sandbox here is no other
    host's to say, and local work on the sandbox does not need the cluster's store. Of a local one the records are at
    hand.
    """

    network: NetworkRecord | None = None
    endpoint: EndpointRecord | None = None


@attrs.frozen
class PortClaim:
    """Who published one protocol and port of this host, by host address (text)."""

    holders: dict[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Installation:
    """One installation: an id that names and marks everything it makes."""

    id: str
    host: str
    created: float = 0.0


@attrs.frozen
class HostSetting:
    """A host-wide sysctl that was changed, and what it was before, so that it can be restored."""

    key: str
    before: str
    boot_id: str = ""


@attrs.frozen
class HostClaim:
    """A host of the cluster: which installation has that name, and the address it is reached by."""

    name: str
    installation: str
    vtep: str = ""
