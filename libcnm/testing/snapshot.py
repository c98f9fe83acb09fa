"""A picture of everything that networking code can leave behind, taken before and after, and compared.

It is a witness, so it shares no code with what it watches: it reads ``/proc`` and asks netlink itself, in a few plain
dumps, and must never import pyroute2 or :mod:`libcnm.kernel`. Items are short lines of text, the same for the same
thing, so that two pictures compare by value and a difference can be printed as it is. A picture takes some
milliseconds and changes nothing. The law: rtnetlink(7), proc(5), <linux/netfilter/nf_tables.h>.
"""

from __future__ import annotations

import ctypes
import glob
import ipaddress
import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import attrs

SESSION_MARK = "LIBCNM_TEST_SESSION"
"""An environment variable that a test session sets for itself and so for all its children: what bears the same value is
ours, however detached; what bears another, or none, belongs to somebody else who is testing on this machine."""

SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/all/disable_ipv6",
    "net/bridge/bridge-nf-call-iptables",
)

ENDING_SECONDS = 0.5
"""Far longer than a thread takes from its last line of Python to its end, on a busy machine, too."""


@attrs.frozen
class Difference:
    """What the second picture has more, and what it has less; false when both are the same."""

    appeared: tuple[str, ...]
    vanished: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.appeared or self.vanished)

    def __str__(self) -> str:
        return "\n".join([*(f"+ {item}" for item in self.appeared), *(f"- {item}" for item in self.vanished)])

    def without(self, patterns: Iterable[str]) -> Difference:
        """The difference less every item that one of the regular expressions matches from its beginning."""
        known = [re.compile(pattern) for pattern in patterns]

        def rest(items: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(item for item in items if not any(pattern.match(item) for pattern in known))

        return Difference(rest(self.appeared), rest(self.vanished))


@attrs.frozen
class Snapshot:
    """One picture: for each section (``links``, ``mounts``, ``processes`` ...) items, and how often each is there."""

    sections: Mapping[str, Mapping[str, int]]

    @classmethod
    def take(cls, files: Sequence[str] = ()) -> Snapshot:
        """Look around. ``files``: glob patterns (``**`` goes down) of paths to list, for example ``/run/libcnm/**``.

        Links, addresses, routes, rules, nft tables, sysctls and listening sockets are those of the calling thread's
        network namespace and of every one that is pinned by a mount and may be entered.
        """
        mounts = list(_mounts())
        processes = _our_processes()
        sections: dict[str, Counter[str]] = {
            "network namespaces": Counter(_namespaces(mounts, processes)),
            "mounts": Counter(str(mount) for mount in mounts),
            "processes": Counter(str(process) for process in processes),
            "threads": Counter(_threads()),
            "fds": Counter(_descriptors()),
            "files": Counter(path for pattern in files for path in _files(pattern)),
        }
        for section, item in _networking("own"):
            sections.setdefault(section, Counter())[item] += 1
        for section, item in _pinned_networking(mounts):
            sections.setdefault(section, Counter())[item] += 1
        return cls({name: dict(sorted(items.items())) for name, items in sections.items()})

    def __str__(self) -> str:
        return "\n".join(_lines({name: Counter(items) for name, items in self.sections.items()}))


def difference(before: Snapshot, after: Snapshot) -> Difference:
    """What appeared and what vanished between two pictures, as lines that begin with the section's name."""

    def more(left: Snapshot, right: Snapshot) -> tuple[str, ...]:
        return tuple(
            _lines({name: Counter(items) - Counter(right.sections.get(name)) for name, items in left.sections.items()})
        )

    return Difference(appeared=more(after, before), vanished=more(before, after))


def _lines(sections: Mapping[str, Counter[str]]) -> Iterator[str]:
    for name in sorted(sections):
        for item, count in sorted(sections[name].items()):
            yield f"{name}: {item}" + (f" (x{count})" if count > 1 else "")


# --- mounts, processes, files


@attrs.frozen
class _Mount:
    root: str
    point: str
    kind: str

    def __str__(self) -> str:
        return f"{self.point} {self.kind}" + ("" if self.root == "/" else f" {self.root}")


def _mounts() -> Iterator[_Mount]:
    for line in Path("/proc/thread-self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        left, right = line.split(" - ", 1)
        _, _, _, root, point, *_ = left.split(" ")
        yield _Mount(_unescape(root), _unescape(point), right.split(" ", 1)[0])


def _unescape(text: str) -> str:
    """Mountinfo writes blanks, newlines and backslashes of a path as octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


@attrs.frozen
class _Process:
    pid: int
    parent: int
    started: str  # with the pid it is an identity: pids are used again
    zombie: bool
    command: str

    def __str__(self) -> str:
        return f"{self.pid} started {self.started}: {self.command}" + (" (zombie)" if self.zombie else "")


def _all_processes() -> dict[int, _Process]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):  # gone meanwhile
                status = Path(f"/proc/{name}/stat").read_text("utf-8", "replace")
                argv = Path(f"/proc/{name}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                title = status[status.index("(") : status.rindex(")") + 1]
                fields = status[status.rindex(")") + 2 :].split()
                command = b" ".join(argv).decode("utf-8", "replace") or title
                found[int(name)] = _Process(int(name), int(fields[1]), fields[19], fields[0] == "Z", command)
    return found


def _our_processes() -> list[_Process]:
    """Every descendant of this process, and the detached ones that bear our session's mark.

    Without a mark, a process counts that mentions libcnm in its command line. We and our ancestors do not count.
    """
    everyone = _all_processes()
    above = set()
    pid = os.getpid()
    while pid in everyone and pid not in above:
        above.add(pid)
        pid = everyone[pid].parent
    mark = os.environ.get(SESSION_MARK)
    ours = {os.getpid()}
    for process in everyone.values():
        if process.pid not in above and (_bears(process.pid, mark) if mark else "libcnm" in process.command):
            ours.add(process.pid)
    grown = True
    while grown:
        younger = {process.pid for process in everyone.values() if process.parent in ours} - ours - above
        ours |= younger
        grown = bool(younger)
    return [everyone[pid] for pid in sorted(ours) if pid in everyone and pid not in above]


def _bears(pid: int, mark: str) -> bool:
    with suppress(OSError):
        return f"{SESSION_MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def _namespaces(mounts: Iterable[_Mount], processes: Iterable[_Process]) -> set[str]:
    found = {os.readlink("/proc/thread-self/ns/net")}
    found |= {mount.root for mount in mounts if mount.kind == "nsfs" and mount.root.startswith("net:")}
    for process in processes:
        with suppress(OSError):  # gone, a zombie, or not ours to look at
            found.add(os.readlink(f"/proc/{process.pid}/ns/net"))
    return found


def _threads() -> Iterator[str]:
    """Those that Python does not know get a moment to end: the kernel lists one that was joined until it has exited."""
    until = time.monotonic() + ENDING_SECONDS
    while True:
        names = {str(thread.native_id): thread.name for thread in threading.enumerate()}
        tasks = os.listdir("/proc/self/task")
        if names.keys() >= set(tasks) or time.monotonic() > until:
            break
        threading.Event().wait(0.001)
    for task in tasks:
        with suppress(OSError):
            yield names.get(task) or Path(f"/proc/self/task/{task}/comm").read_text("utf-8", "replace").strip()


def _descriptors() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor that read the folder is closed by now
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as copy:
                    yield f"socket {getattr(copy.family, 'name', copy.family)}"
            else:
                yield re.sub(r"^pipe:\[\d+\]$", "pipe", target)


def _files(pattern: str) -> Iterator[str]:
    yield from glob.iglob(pattern, recursive=True, include_hidden=True)


# --- one network namespace


def _networking(where: str) -> Iterator[tuple[str, str]]:
    """Section and item for everything in the calling thread's network namespace."""
    for section, items in (
        ("links", _links()),
        ("addresses", _addresses()),
        ("routes", _routes()),
        ("rules", _rules()),
        ("nft tables", _nft_tables()),
        ("sysctls", _sysctls()),
        ("listening", _listening()),
    ):
        for item in items:
            yield section, f"{item} in {where}"


def _pinned_networking(mounts: Iterable[_Mount]) -> list[tuple[str, str]]:
    """The same for each pinned namespace, seen by a thread that enters one after the other and then ends."""
    seen = {os.readlink("/proc/thread-self/ns/net")}
    todo = []
    for mount in mounts:
        if mount.kind == "nsfs" and mount.root.startswith("net:") and mount.root not in seen:
            seen.add(mount.root)
            todo.append(mount.point)
    found: list[tuple[str, str]] = []

    def look() -> None:
        for point in todo:
            with suppress(OSError):  # gone meanwhile, or of an outer user namespace: not ours
                _enter(point)
                found.extend(_networking(point))

    if todo:
        thread = threading.Thread(target=look, name="libcnm-snapshot")
        thread.start()
        thread.join()
    return found


_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x4000_0000


def _enter(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    finally:
        os.close(handle)


def _sysctls() -> Iterator[str]:
    for name in SYSCTLS:
        with suppress(OSError):  # a module that is not loaded
            yield f"{name.replace('/', '.')}={Path('/proc/sys', name).read_text('ascii').strip()}"


TCP_LISTEN, UDP_UNCONNECTED, SO_ACCEPTCON = "0A", "07", 0x1_0000


def _listening() -> Iterator[str]:
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        with suppress(FileNotFoundError):  # a kernel without IPv6
            for line in Path("/proc/thread-self/net", protocol).read_text("ascii").splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == (TCP_LISTEN if protocol.startswith("tcp") else UDP_UNCONNECTED):
                    yield f"{protocol} {_endpoint(local)}"
    for line in Path("/proc/thread-self/net/unix").read_text("utf-8", "replace").splitlines()[1:]:
        _, _, _, flags, _, _, _, *path = line.split(maxsplit=7)
        if int(flags, 16) & SO_ACCEPTCON:
            yield f"unix {''.join(path)}"


def _endpoint(text: str) -> str:
    """``0100007F:0035`` is 127.0.0.1:53: the address as 32-bit words in the machine's byte order."""
    words, port = text.split(":")
    packed = b"".join(struct.pack("=I", int(words[i : i + 8], 16)) for i in range(0, len(words), 8))
    return f"{ipaddress.ip_address(packed)} port {int(port, 16)}"


# --- netlink, as little as is needed

NETLINK_NETFILTER = 12
NLMSG_ERROR, NLMSG_DONE, NLM_F_REQUEST_DUMP = 2, 3, 0x301
HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE, RTM_GETRULE = 18, 22, 26, 34
IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_INFO_KIND, IFF_UP = 3, 10, 18, 1, 1
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
RTPROT_KERNEL, RTM_F_CLONED = 2, 0x200
RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST, RTN_MULTICAST = 2, 3, 4, 5
FRA_NAMES = {1: "to", 2: "from", 3: "iif", 6: "priority", 10: "fwmark", 15: "table", 17: "oif", 21: "proto"}
NFT_MSG_GETTABLE, NFTA_TABLE_NAME = 10 << 8 | 1, 1
NFT_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


def _dump(kind: int, payload: bytes, protocol: int = socket.NETLINK_ROUTE) -> Iterator[bytes]:
    """Ask for a dump and yield the bodies of the answer's messages."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as door:
        door.settimeout(5)
        door.send(HEADER.pack(HEADER.size + len(payload), kind, NLM_F_REQUEST_DUMP, 1, 0) + payload)
        while True:
            data = door.recv(1 << 18)
            offset = 0
            while offset < len(data):
                length, answer, _, _, _ = HEADER.unpack_from(data, offset)
                body = data[offset + HEADER.size : offset + length]
                if answer == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    raise OSError(number, os.strerror(number))
                if answer == NLMSG_DONE:
                    return
                yield body
                offset += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += max(4, (length + 3) & ~3)
    return found


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")


def _number(value: bytes) -> int:
    return int.from_bytes(value, "little" if struct.pack("=H", 1) == b"\1\0" else "big")


def _device(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"#{index}"  # in another namespace


def _links() -> Iterator[str]:
    for body in _dump(RTM_GETLINK, bytes(16)):
        flags = struct.unpack_from("=I", body, 8)[0]
        facts = _attributes(body[16:])
        kind = _text(_attributes(facts.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b"")) or "device"
        master = f" master {_device(_number(facts[IFLA_MASTER]))}" if IFLA_MASTER in facts else ""
        yield f"{_text(facts[IFLA_IFNAME])} {kind}{master} {'up' if flags & IFF_UP else 'down'}"


def _addresses() -> Iterator[str]:
    for body in _dump(RTM_GETADDR, bytes(8)):
        _, prefix, _, _, index = struct.unpack_from("=BBBBI", body)
        facts = _attributes(body[8:])
        yield f"{ipaddress.ip_address(facts.get(IFA_LOCAL) or facts[IFA_ADDRESS])}/{prefix} dev {_device(index)}"


def _routes() -> Iterator[str]:
    """Routes that somebody made: those the kernel derives from addresses come and go with them."""
    for body in _dump(RTM_GETROUTE, bytes(12)):
        family, prefix, _, _, table, protocol, _, kind, flags = struct.unpack_from("=BBBBBBBBI", body)
        if (
            protocol == RTPROT_KERNEL
            or kind in (RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST, RTN_MULTICAST)
            or flags & RTM_F_CLONED
        ):
            continue
        facts = _attributes(body[12:])
        zero = "0.0.0.0" if family == socket.AF_INET else "::"
        to = ipaddress.ip_address(facts[RTA_DST]) if RTA_DST in facts else zero
        via = f" via {ipaddress.ip_address(facts[RTA_GATEWAY])}" if RTA_GATEWAY in facts else ""
        device = f" dev {_device(_number(facts[RTA_OIF]))}" if RTA_OIF in facts else ""
        number = _number(facts[RTA_TABLE]) if RTA_TABLE in facts else table
        yield f"{to}/{prefix}{via}{device} type {kind} table {number} proto {protocol}"


def _rules() -> Iterator[str]:
    for body in _dump(RTM_GETRULE, bytes(12)):
        family, to, source, _, _, _, _, action, _ = struct.unpack_from("=BBBBBBBBI", body)
        words = [f"family {family} action {action}"]
        for kind, value in sorted(_attributes(body[12:]).items()):
            name = FRA_NAMES.get(kind)
            if name in ("to", "from"):
                words.append(f"{name} {ipaddress.ip_address(value)}/{to if name == 'to' else source}")
            elif name:
                words.append(f"{name} {_text(value) if name in ('iif', 'oif') else _number(value)}")
        yield " ".join(words)


def _nft_tables() -> Iterator[str]:
    try:
        for body in _dump(NFT_MSG_GETTABLE, bytes(4), NETLINK_NETFILTER):
            yield f"{NFT_FAMILIES.get(body[0], body[0])} {_text(_attributes(body[4:])[NFTA_TABLE_NAME])}"
    except PermissionError:
        yield "(not readable: no CAP_NET_ADMIN here)"
    except OSError:
        return  # a kernel without nf_tables has none
