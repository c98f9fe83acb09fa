"""What a stored record must *mean* to be believed: the check of each kind, and the key that a record must lie at.

Other hosts write the cluster's store, so a value of the right type proves nothing. :mod:`libcnm.model.codec` calls
:func:`check` when it reads. When it writes it calls :func:`check_values`: third parties' IPAMs and drivers have their
part in what the verbs write, and what could not be read again could not be undone either. Making a record checks
nothing. Pure, and cheap: an attach reads and writes half a dozen records.

What takes two records to say (:func:`check_member`), the store (:func:`check_scope`) or the driver
(:func:`check_driver_scope`), those ask who have them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sized
from typing import Any, Final

from libcnm.errors import Corrupt, Invalid
from libcnm.model import keys, limits
from libcnm.model.addresses import check_unicast, is_canonical_mac, parse_address, parse_server
from libcnm.model.ids import check_hostname, check_labels, check_name, check_resolver_option
from libcnm.model.pool import Pool
from libcnm.model.records import (
    Attachment,
    EndpointRecord,
    HostClaim,
    HostSetting,
    Installation,
    Intent,
    LedgerLine,
    Mark,
    NameClaim,
    NetworkRecord,
    PortClaim,
    Presence,
    RequestNote,
    SandboxRecord,
    Scope,
)

_is_id = re.compile(r"[0-9a-f]{64}").fullmatch
_is_operation = re.compile(r"([0-9a-f]{32})?").fullmatch
_is_interface = re.compile(rf"[A-Za-z][A-Za-z0-9_.-]{{0,{limits.INTERFACE_NAME_BYTES - 2}}}[0-9]").fullmatch
"""A prefix and a number. Never ``lo``, ``all`` or ``default``, which sysctls take for something else; never a path."""
_is_setting = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+").fullmatch
_is_file_name = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{limits.NAME_CHARS + 31}}}").fullmatch
"""A name with something before or after it."""
_is_verb = re.compile(r"[a-z_]{1,32}").fullmatch
_is_host_address = re.compile(r"[0-9a-f.:]{2,45}").fullmatch
_is_vni_hint = re.compile(r"[0-9]{1,8}").fullmatch


def check(record: Any, key: str) -> None:
    """Raise :class:`~libcnm.errors.Invalid` for a record that no verb would have written, or not at this key."""
    cls = type(record)
    name = _KEYS.get(cls)
    if name is not None and name(record) != key:
        raise Invalid("key", name(record), "is where this record belongs, and it lies elsewhere")
    if cls is NameClaim:
        _holder(record.holder, key)
    elif cls is LedgerLine:
        _line(record, key)
    check_values(record)


def check_values(record: Any) -> None:
    """The same, of a record that lies nowhere yet."""
    known = _CHECKS.get(type(record))
    if known is not None:
        known(record)


def check_scope(record: NetworkRecord | EndpointRecord, store: Scope) -> None:
    """A network of the host's own store is local, one of the cluster's global, and the cluster's has no ways out: else
    Corrupt, naming its key.
    """
    if isinstance(record, EndpointRecord):
        if record.gateway_of and store == "global":
            raise Corrupt(keys.endpoint(record.network_id, record.id), "a way out, which is its host's own affair")
    elif record.scope != store:
        raise Corrupt(keys.network(record.id), f"a network of scope {record.scope!r} in the {store} store")


def check_driver_scope(record: NetworkRecord, scope: Scope) -> None:
    """A network lies in the store that its driver's ``capabilities.scope`` says: else Corrupt, naming its key.

    Without this, whoever may write to the cluster's store could have any host build, say, a bridge network.
    """
    if record.scope != scope:
        reason = f"a network of scope {record.scope!r}, but driver {record.driver!r} has {scope} ones"
        raise Corrupt(keys.network(record.id), reason)


def check_member(network: NetworkRecord, endpoint: EndpointRecord) -> None:
    """An endpoint has addresses of its own network's subnets, none of them a gateway's: else Corrupt, naming its key.

    A row for any other address would draw traffic that is none of this network's, or its way out.
    """
    if endpoint.network_id != network.id:
        raise Corrupt(keys.endpoint(endpoint.network_id, endpoint.id), f"is not of network {network.id[:12]}")
    for interface in endpoint.addresses:
        pool = next((pool for pool in network.pools if pool.subnet == interface.network), None)
        if pool is None or interface.ip == pool.gateway:
            why = "is in none of its network's subnets" if pool is None else "is its network's gateway"
            raise Corrupt(keys.endpoint(endpoint.network_id, endpoint.id), f"address {interface} {why}")


# -- one check for each kind -------------------------------------------------------------------------------------------


def _network(record: NetworkRecord) -> None:
    _id("id", record.id)
    check_name(record.name)
    check_name(record.driver, "driver")
    check_name(record.ipam_driver, "ipam_driver")
    _at_most("pools", record.pools, limits.SUBNETS_PER_NETWORK)
    for pool in record.pools:
        _pool(pool)
    _texts(record)
    if record.vni is not None and not 1 <= record.vni <= limits.VNI_MAX:
        raise Invalid("vni", record.vni, "is no VXLAN network identifier")
    _seconds("created", record.created)
    _operation(record.operation)
    if record.mark is not None:
        _mark(record.mark)


def _pool(pool: Pool) -> None:
    check_name(pool.id, "pool id")
    check_name(pool.space, "space")
    subnet = pool.subnet
    if subnet.prefixlen:  # an IPAM that does not know addresses calls everything its pool
        check_unicast(subnet, "subnet")
    if pool.range is not None and not (pool.range.version == subnet.version and pool.range.subnet_of(subnet)):  # type: ignore[arg-type]  # of one version, as it says
        raise Invalid("range", str(pool.range), f"is not inside the subnet {subnet}")
    if pool.gateway is not None and pool.gateway not in subnet:
        raise Invalid("gateway", str(pool.gateway), f"is not inside the subnet {subnet}")
    _at_most("aux", pool.aux, limits.AUX_PER_SUBNET)
    for name, address in pool.aux.items():
        if len(name) > limits.NAME_CHARS or address not in subnet:
            raise Invalid(f"aux[{name[:40]!r}]", str(address), f"is not inside the subnet {subnet}")


def _mark(record: Mark) -> None:
    _operation(record.operation)
    check_name(record.host, "host")


def _endpoint(record: EndpointRecord) -> None:
    _id("id", record.id)
    _id("network_id", record.network_id)
    check_name(record.name)
    mac, addresses = record.mac, record.addresses
    if mac:
        if not is_canonical_mac(mac):
            raise Invalid("mac", mac, "is not a unicast MAC in lower case")
    elif addresses:
        raise Invalid("mac", mac, "is missing: the endpoint has addresses")
    if addresses:
        _at_most("addresses", addresses, limits.SUBNETS_PER_NETWORK)
        for interface in addresses:
            check_unicast(interface.ip, "address")
    if record.aliases:
        _at_most("aliases", record.aliases, limits.ALIASES)
        for alias in record.aliases:
            check_name(alias, "alias")
    _at_most("ports", record.ports, limits.BOUND_PORTS)
    _texts(record)
    _seconds("created", record.created)
    _operation(record.operation)
    if record.gateway_of:
        _id("gateway_of", record.gateway_of)
    if record.attachment is not None:
        _attachment(record.attachment)


def _attachment(record: Attachment) -> None:
    check_name(record.host, "host")
    _id("sandbox_id", record.sandbox_id)
    check_name(record.container_id, "container_id")
    _namespace(record.namespace, record.sandbox_id)
    if record.interface and not _is_interface(record.interface):
        raise Invalid("interface", record.interface, "is not the name of a sandbox's interface")
    if record.hostname:
        check_hostname(record.hostname)
    if not -limits.PRIORITY_MAX <= record.priority <= limits.PRIORITY_MAX:
        raise Invalid("priority", record.priority, f"is not an integer of at most {limits.PRIORITY_MAX}")
    if record.vtep is not None:
        check_unicast(record.vtep, "vtep")
    _at_most("ports", record.ports, limits.BOUND_PORTS)
    _operation(record.operation)
    if record.request_id:
        check_name(record.request_id, "request_id")
    _boot(record.boot_id)


def _sandbox(record: SandboxRecord) -> None:
    _id("id", record.id)
    check_name(record.container_id, "container_id")
    _namespace(record.namespace, record.id)
    _boot(record.boot_id)
    if record.source is not None and (not record.source.startswith("/") or "\0" in record.source):
        raise Invalid("source", record.source, "is not an absolute path")
    for field, name in (("hostname", record.hostname), ("domain", record.domain)):
        if name:
            check_hostname(name, field)
    for server in record.dns:
        parse_server(server, "dns")
    for name in record.dns_search:
        check_hostname(name, "dns_search")
    for option in record.dns_options:
        check_resolver_option(option)
    for name, address in record.extra_hosts.items():
        check_hostname(name, "extra_hosts")
        parse_address(address, "extra_hosts")
    if record.labels:
        check_labels(record.labels)
    _seconds("created", record.created)


def _intent(record: Intent) -> None:
    _operation(record.operation, required=True)
    if not _is_verb(record.verb):
        raise Invalid("verb", record.verb, "is not the name of a verb")
    _at_most("locks", record.locks, limits.LOCKS_PER_INTENT)
    for name in record.locks:
        _file_name("lock", name)
    for field, value in (
        ("network_id", record.network_id),
        ("endpoint_id", record.endpoint_id),
        ("sandbox_id", record.sandbox_id),
    ):
        if value:
            _id(field, value)
    if record.attachment is not None:
        _attachment(record.attachment)
    _seconds("started", record.started)
    _boot(record.boot_id)
    if record.request is not None:
        _request_note(record.request)


def _presence(record: Presence) -> None:
    _id("network_id", record.network_id)
    if not 0 <= record.epoch <= limits.EPOCH_MAX:
        raise Invalid("epoch", record.epoch, f"is not between 0 and {limits.EPOCH_MAX}")
    _boot(record.boot_id)


def _name_claim(record: NameClaim) -> None:
    _text("holder", record.holder)
    _text("operation", record.operation)


def _ledger_line(record: LedgerLine) -> None:
    if (record.network is None) != (record.endpoint is None):
        raise Invalid("network", record.network, "is not given together with the endpoint")
    if record.network is not None and record.endpoint is not None:
        _network(record.network)
        _endpoint(record.endpoint)
        check_member(record.network, record.endpoint)
        check_scope(record.endpoint, record.network.scope)


def _line(record: LedgerLine, key: str) -> None:
    _, scope, network_id, endpoint_id = keys.parse_attachment(key)
    known = record.endpoint
    if (scope == "global") != (known is not None):
        raise Invalid("endpoint", known, "is kept of the cluster's endpoints, and only of those")
    if known is not None and (known.network_id, known.id) != (network_id, endpoint_id):
        raise Invalid("endpoint", known.id, "is not the endpoint that this line is about")


def _holder(holder: str, key: str) -> None:
    """Mostly the id of an object or of the cluster; a few keys have something else to remember."""
    if key == keys.LINEAGE or key.startswith(keys.CLAIMS):
        _id("holder", holder)
    elif key == keys.VNI_HINT and not _is_vni_hint(holder):
        raise Invalid("holder", holder, "is no number")


def _port_claim(record: PortClaim) -> None:
    for address, holder in record.holders.items():
        if not _is_host_address(address):
            raise Invalid("holders", address, "is not an address")
        _id("holder", holder)


def _installation(record: Installation) -> None:
    _id("id", record.id)
    check_name(record.host, "host")
    _seconds("created", record.created)


def _host_setting(record: HostSetting) -> None:
    if len(record.key) > limits.KEY_BYTES // 2 or not _is_setting(record.key):
        raise Invalid("key", record.key, "is not a sysctl's")
    if len(record.before) > limits.LABEL_BYTES or "\0" in record.before:
        raise Invalid("before", record.before, "is not a sysctl's value")
    _boot(record.boot_id)


def _request_note(record: RequestNote) -> None:
    check_name(record.id, "request_id")
    if not _is_verb(record.verb):
        raise Invalid("verb", record.verb, "is not the name of a verb")
    _text("subject", record.subject)
    _id("digest", record.digest)
    if record.result:
        _id("result", record.result)
    _seconds("at", record.at)
    _boot(record.boot_id)


def _host_claim(record: HostClaim) -> None:
    check_name(record.name, "host")
    _id("installation", record.installation)
    if record.vtep:
        check_unicast(parse_address(record.vtep, "vtep"), "vtep")


# -- one check for each kind of field ----------------------------------------------------------------------------------


def _id(field: str, value: str) -> None:
    if not _is_id(value):
        raise Invalid(field, value, "is not an id")


def _operation(value: str, *, required: bool = False) -> None:
    if not _is_operation(value) or (required and not value):
        raise Invalid("operation", value, "is not the id of an operation")


def _boot(value: str) -> None:
    if value:
        _file_name("boot_id", value)


def _file_name(field: str, value: str) -> None:
    if not _is_file_name(value):
        raise Invalid(field, value, "is not a plain name")


def _namespace(value: str, sandbox_id: str) -> None:
    # It becomes a file's name: no other than the one that libcnm gives.
    if value and value != sandbox_id[:12]:
        raise Invalid("namespace", value, "is not its sandbox's")


def _seconds(field: str, value: float) -> None:
    if not 0 <= value <= limits.EPOCH_SECONDS_MAX:  # so written, a NaN is refused too
        raise Invalid(field, value, "is no time")


def _text(field: str, value: str) -> None:
    if len(value) > limits.LABEL_BYTES or not value.isprintable():
        raise Invalid(field, value, "is not a printable text")


def _at_most(field: str, values: Sized, most: int) -> None:
    if len(values) > most:
        raise Invalid(field, len(values), f"{field} are more than {most}")


def _texts(record: NetworkRecord | EndpointRecord) -> None:
    if record.options:
        check_labels(record.options, "options")
    if record.labels:
        check_labels(record.labels)


_CHECKS: Final[Mapping[type, Callable[[Any], None]]] = {
    NetworkRecord: _network,
    EndpointRecord: _endpoint,
    SandboxRecord: _sandbox,
    Attachment: _attachment,
    Mark: _mark,
    Intent: _intent,
    Presence: _presence,
    PortClaim: _port_claim,
    Installation: _installation,
    HostSetting: _host_setting,
    RequestNote: _request_note,
    HostClaim: _host_claim,
    NameClaim: _name_claim,
    LedgerLine: _ledger_line,
}

_KEYS: Final[Mapping[type, Callable[[Any], str]]] = {
    NetworkRecord: lambda record: keys.network(record.id),
    EndpointRecord: lambda record: keys.endpoint(record.network_id, record.id),
    SandboxRecord: lambda record: keys.sandbox(record.id),
    Intent: lambda record: keys.intent(record.operation),
    Presence: lambda record: keys.presence(record.network_id),
    Installation: lambda _: keys.INSTALLATION,
    HostSetting: lambda record: keys.host_setting(record.key),
    HostClaim: lambda record: keys.host(record.name),
    RequestNote: lambda record: keys.request(record.id),
}
"""Where records lie that say so themselves."""


def own_key(record: Any) -> str | None:
    """The one key that a record may lie at; None for kinds that may lie at several."""
    known = _KEYS.get(type(record))
    return None if known is None else known(record)
