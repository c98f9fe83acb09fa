"""The three files of a sandbox that say who it is and whom it asks, as text; and the host's resolv.conf, read.

Pure: the caller reads and writes. Writers refuse, with :class:`~libcnm.errors.Invalid`, every value that could begin a
new line or a new word, so nothing can be injected. The reader takes any text of bounded size and skips what it does not
understand, as resolv.conf(5) does. Formats: hosts(5), resolv.conf(5), hostname(5); the rules are libnetwork's, with one
``ndots`` (the last the user gave, else 0) where it wrote two.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

import attrs

from libcnm.dns.names import encodable, normal
from libcnm.dns.view import RESOLVER_ADDRESS, Upstream
from libcnm.errors import Invalid
from libcnm.model import limits
from libcnm.model.addresses import IPAddress
from libcnm.model.ids import check_resolver_option

RESOLV_CONF_CHARS = 64 * 1024
SYSTEMD_STUB = ipaddress.IPv4Address("127.0.0.53")
"""systemd-resolved on the host; the servers behind it stand in ``/run/systemd/resolve/resolv.conf``."""

_DEFAULT_HOSTS = "127.0.0.1\tlocalhost\n"
_DEFAULT_HOSTS_IPV6 = (
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?", re.ASCII)
"""RFC 1123 2.1, and the underscore, which container names have."""
_OPTION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*(:[0-9]{1,5})?", re.ASCII)


@attrs.frozen
class ResolvConf:
    """What a resolv.conf says, in its order."""

    nameservers: tuple[IPAddress, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def checked_host(name: str, field: str) -> str:
    """``name`` if it is a host or domain name; :class:`~libcnm.errors.Invalid` names ``field``."""
    if not encodable(name) or not all(map(_HOST_LABEL.fullmatch, name.split("."))):
        raise Invalid(field, name, "is not a host name", hint="letters, digits, '-', '_' and '.', labels of at most 63")
    return name


def hostname_file(hostname: str) -> str:
    """The text of ``/etc/hostname``. Raises :class:`~libcnm.errors.Invalid`, also for more than 64 characters."""
    if len(hostname) > limits.HOSTNAME_CHARS:
        raise Invalid("hostname", hostname, f"has more than {limits.HOSTNAME_CHARS} characters")
    return checked_host(hostname, "hostname") + "\n"


def hosts_file(
    hostname: str,
    addresses: Iterable[IPAddress] = (),
    *,
    domain: str = "",
    extra: Iterable[tuple[str, IPAddress]] = (),
    ipv6: bool = True,
) -> str:
    r"""The text of ``/etc/hosts``: localhost, the extra hosts as (name, address), then a line for each own address.

    An own line is ``<address>\t<hostname>.<domain> <hostname>``; a dotted host name is also given by its first label.
    Without ``ipv6`` the IPv6 lines of localhost are left out. Raises :class:`~libcnm.errors.Invalid`.
    """
    full = f"{checked_host(hostname, 'hostname')}.{checked_host(domain, 'domain')}" if domain else hostname
    names = " ".join(dict.fromkeys((checked_host(full, "hostname"), hostname, hostname.partition(".")[0])))
    lines = [f"{address}\t{checked_host(name, 'extra host')}\n" for name, address in extra]
    lines += [f"{address}\t{names}\n" for address in addresses]
    return _DEFAULT_HOSTS + (_DEFAULT_HOSTS_IPV6 if ipv6 else "") + "".join(lines)


def resolv_conf_file(
    search: Iterable[str] = (), options: Iterable[str] = (), *, nameserver: IPAddress = RESOLVER_ADDRESS
) -> str:
    """The text of ``/etc/resolv.conf``: our resolver, the search domains ("." alone or among them: none), the options.

    ``ndots:0`` is added unless ``options`` has an ``ndots``. Raises :class:`~libcnm.errors.Invalid`.
    """
    domains, chosen, ndots = list(search), list[str](), "ndots:0"
    for option in options:
        check_resolver_option(option)
        if option.startswith("ndots"):
            ndots = option
        elif option not in chosen:
            chosen.append(option)
    text = f"nameserver {nameserver}\n"
    if domains and "." not in domains:
        text += f"search {' '.join(checked_host(normal(domain), 'dns search') for domain in domains)}\n"
    return text + f"options {' '.join([*chosen, ndots])}\n"


def read_resolv_conf(text: str) -> ResolvConf:
    """What ``text`` says; lines, addresses and domains that make no sense are skipped.

    Raises :class:`~libcnm.errors.Invalid` for more than 64 Ki characters.
    """
    if len(text) > RESOLV_CONF_CHARS:
        raise Invalid("resolv.conf", f"{text[:40]}...", f"has more than {RESOLV_CONF_CHARS} characters")
    nameservers: list[IPAddress] = []
    search: list[str] = []
    options: list[str] = []
    for line in text.split("\n"):
        if line.startswith(("#", ";")):
            continue
        keyword, *words = line.split() or [""]
        if keyword == "nameserver" and words:
            nameservers += _addresses(words[0])
        elif keyword in ("search", "domain"):
            search = list(filter(_is_host, words))[: limits.DNS_SEARCH]
        elif keyword == "options":
            options += filter(_OPTION.fullmatch, words)
    return ResolvConf(tuple(dict.fromkeys(nameservers)), tuple(search), tuple(options[: limits.DNS_SEARCH]))


def host_upstreams(text: str, behind_stub: str | None = None) -> tuple[Upstream, ...]:
    """The servers that the host's resolv.conf ``text`` names, to be asked from the host's namespace; three at most.

    When systemd-resolved's stub is the only one, ``behind_stub`` (the text of its own file) is read instead, if given:
    the stub answers, but on loopback and with its own view of names. Our resolver's address is never an upstream: it
    would ask itself. Raises :class:`~libcnm.errors.Invalid` for a text without bounds.
    """
    servers = read_resolv_conf(text).nameservers
    if servers == (SYSTEMD_STUB,) and behind_stub is not None:
        servers = read_resolv_conf(behind_stub).nameservers
    fit = [s for s in servers if s != RESOLVER_ADDRESS and not s.is_multicast and not s.is_unspecified]
    return tuple(Upstream(server, via="host") for server in fit[: limits.DNS_UPSTREAMS])


def _addresses(word: str) -> list[IPAddress]:
    try:
        return [ipaddress.ip_address(word)]
    except ValueError:
        return []


def _is_host(word: str) -> bool:
    name = normal(word)
    return encodable(name) and all(map(_HOST_LABEL.fullmatch, name.split(".")))
