"""The live :class:`Sandbox`: an identity, the last record read, and the verbs on it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from libcnm.controller import port_claims, sandbox_files
from libcnm.controller import sandboxes as sandbox_verbs
from libcnm.controller.endpoint import Endpoint
from libcnm.controller.handles import SandboxHandle
from libcnm.controller.recovery import after_recovery
from libcnm.controller.sandboxes import SandboxSpec
from libcnm.errors import CnmError, NotFound
from libcnm.kernel.base import LinkStatistics
from libcnm.model import arguments
from libcnm.model.addresses import IPAddress
from libcnm.model.ids import check_hostname
from libcnm.system import processes

Result = TypeVar("Result")


class Sandbox(SandboxHandle):
    """A container's network: a namespace and three files. A context manager: leaving the block deletes it."""

    def __repr__(self) -> str:
        return f"<Sandbox of {self.container_id!r} {self.id[:12]}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sandbox) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.delete()
        except NotFound:
            pass  # somebody deleted it inside the block
        except CnmError as failed:
            if error is None:
                raise
            error.add_note(f"and its sandbox could not be deleted: {failed}")  # what came first is what is to be known

    @property
    def hostname(self) -> str:
        """The container's host name."""
        return self._record.hostname

    @property
    def path(self) -> str:
        """Its network namespace, for ``nsenter --net=``; empty for a sandbox of the host's own namespace."""
        return self._calls.context.doors.kernel.namespace_path(self._record.namespace) if self._record.namespace else ""

    @property
    def files(self) -> Mapping[str, str]:
        """``/etc/hosts``, ``/etc/resolv.conf`` and ``/etc/hostname``: the files to bind-mount over them."""
        return sandbox_files.mounts(self._calls.context, self._record)

    @property
    def endpoints(self) -> list[Endpoint]:
        """Its endpoints, in the order in which they provide the default route. They are yours to detach and delete; its
        :attr:`way_out`, which comes and goes by itself, is none of them.
        """
        return [endpoint for endpoint in self._attached() if not endpoint.is_way_out]

    @property
    def way_out(self) -> Endpoint | None:
        """The one more that libcnm gives it while its networks have no gateway (see :attr:`Endpoint.is_way_out`): the
        last in that order. libnetwork: the endpoint on ``docker_gwbridge``.
        """
        return next((endpoint for endpoint in self._attached() if endpoint.is_way_out), None)

    def _attached(self) -> list[Endpoint]:
        with self._calls.verb(None) as call:
            plugs = sorted(call.context.plugs(self.id, call.deadline), key=lambda plug: plug.order)
        return [Endpoint(self._calls, plug.network.record, plug.endpoint) for plug in plugs]

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = False,
        capture_output: bool = False,
        timeout: float | None = None,
        input: bytes | str | None = None,  # noqa: A002  # subprocess.run's name
        text: bool | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program inside the sandbox, as :func:`subprocess.run` does, and with the sandbox's own ``/etc/hosts``,
        ``/etc/resolv.conf`` and ``/etc/hostname`` in a private mount namespace. No shell. ``timeout`` in seconds.

        Raises NotFound when its namespace has gone, else what :func:`subprocess.run` does: FileNotFoundError (no such
        program), subprocess.TimeoutExpired, with ``check`` subprocess.CalledProcessError.
        """
        if text is not None and arguments.flag(text, "text"):
            options["text"] = True
        return processes.run(
            self.popen,
            argv,
            check=check,
            capture_output=capture_output,
            timeout=timeout,
            given=input,
            **options,
        )

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program inside the sandbox, as :class:`subprocess.Popen` does; see :meth:`run`. Raises NotFound (its
        namespace was removed), DeadlineExceeded (it is still being made, by a process that does not get on), Invalid.
        """
        kernel = self._calls.context.doors.kernel
        command = processes.checked_argv(argv, options)
        return self._inside(lambda: kernel.spawn(command, self._record.namespace, files=self.files, options=options))

    def _inside(self, action: Callable[[], Result]) -> Result:
        """What needs its namespace. One that is not there may still be in the making, or its creator have died before;
        else it was removed, which is told by the container's name: the kernel's door knows the pin's only.
        """
        try:
            return action()
        except NotFound as error:
            if error.kind != "namespace":
                raise
            with self._calls.verb(None) as call:
                sandbox_verbs.finish_creation(call.context, self._record, call.deadline)
        try:
            return action()
        except NotFound as error:
            hint = "healing makes it anew, unless it was brought"
            raise NotFound("namespace of sandbox", error.ref, name=self.container_id, hint=hint) from error

    def resolve_name(self, name: str, *, timeout: float | None = None) -> tuple[IPAddress, ...]:
        """What the sandbox's resolver would answer for a name, all addresses, IPv4 first; empty when it is not known.

        libnetwork: Sandbox.ResolveName. Only names of its networks; nothing is forwarded.
        """
        from libcnm.controller.zones import resolve

        wanted = arguments.text(name, "name")
        with self._calls.verb(timeout) as call:
            return resolve(call.context, self._record, wanted, call.deadline)

    def statistics(self) -> Mapping[str, LinkStatistics]:
        """The counters of each of its interfaces, by name. Raises NotFound when its namespace has gone.

        libnetwork: Sandbox.Statistics.
        """
        return self._inside(lambda: self._calls.context.doors.kernel.statistics(self._record.namespace))

    def rename(self, hostname: str, *, timeout: float | None = None) -> None:
        """Give it another host name: its files change in place. Raises Invalid, NotFound.

        libnetwork: Sandbox.Rename.
        """
        with self._calls.verb(timeout) as call:
            self._record = sandbox_verbs.rename(call.context, self._record, hostname, call.deadline)

    def refresh(
        self,
        *,
        hostname: str | None = None,
        domain: str | None = None,
        dns: Sequence[str | IPAddress] | None = None,
        dns_search: Sequence[str] | None = None,
        dns_options: Sequence[str] | None = None,
        extra_hosts: Mapping[str, str | IPAddress] | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Change some of its settings; its endpoints stay attached meanwhile.

        What is left out (or None) stays as it is; an empty value takes a setting away: ``dns=()``, ``domain=""``. A
        host name it always has: ``hostname=""`` is Invalid. Raises Invalid, NotFound. libnetwork's Sandbox.Refresh,
        which this is, resets whatever it is not told.
        """
        asked = {
            "hostname": hostname,
            "domain": domain,
            "dns": dns,
            "dns_search": dns_search,
            "dns_options": dns_options,
            "extra_hosts": extra_hosts,
            "labels": labels,
        }
        spec = SandboxSpec.checked(
            self.container_id,
            netns=None,
            host_network=False,
            hostname=None if hostname is None else check_hostname(hostname),
            domain=domain,
            dns=dns,
            dns_search=dns_search,
            dns_options=dns_options,
            extra_hosts=extra_hosts,
            labels=labels,
        )
        changes = {name: getattr(spec, name) for name, value in asked.items() if value is not None}
        with self._calls.verb(timeout) as call:
            self._record = sandbox_verbs.refresh(call.context, self._record, call.deadline, **changes)

    def inspect(self, *, timeout: float | None = None) -> dict[str, object]:
        """The sandbox as plain data: all endpoints in it, in their order, a :attr:`way_out` included."""
        from libcnm.controller.inspect import sandbox_as_dict

        with self._calls.verb(timeout) as call:
            self._record = call.context.sandbox(self.id, call.deadline, name=self.container_id).record
            plugs = sorted(call.context.plugs(self.id, call.deadline), key=lambda plug: plug.order)
            inside = [(plug.network.record, plug.endpoint) for plug in plugs]
            return sandbox_as_dict(self._record, self.path, inside, partial(port_claims.is_here, call.context))

    def delete(
        self, *, keep_endpoints: bool = False, timeout: float | None = None, request_id: str | None = None
    ) -> None:
        """Detach and delete its endpoints, then delete it; with ``keep_endpoints`` they keep their names and addresses.

        Raises NotFound. That its namespace or links are gone already is no error. libnetwork: Sandbox.Delete.
        """
        kept = arguments.flag(keep_endpoints, "keep_endpoints")
        with (
            self._calls.verb(timeout, request_id) as call,
            call.request("delete_sandbox", f"sandbox of container {self.container_id!r}", self.id, kept) as request,
        ):
            if request.is_done:
                return
            record = call.context.sandbox(self.id, call.deadline, name=self.container_id).record
            after_recovery(
                call.context,
                call.deadline,
                lambda: sandbox_verbs.delete_sandbox(
                    call.context, record, call.deadline, keep_endpoints=kept, request=request
                ),
            )
