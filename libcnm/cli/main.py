"""The entry point: global options, and what becomes of an error: a line for people or one document for programs.

Every error of libcnm's has its exit status (:attr:`libcnm.errors.CnmError.exit_code`); of several the first decides. A
wrong word is 2, as for every program; Ctrl-C is 130; a reader that has gone is 141, as for programs that die of
SIGPIPE. An exception that is none of libcnm's is a bug and ends with its traceback.
"""

from __future__ import annotations

import errno
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from typing import NoReturn, TextIO, cast

try:
    import click
except ModuleNotFoundError as missing:  # pragma: no cover - only without the extra
    sys.exit(f"cnm: {missing}: the command line needs the extra: pip install 'libcnm[cli]'")

from libcnm import __version__
from libcnm.cli.containers import container
from libcnm.cli.events import events
from libcnm.cli.networks import network
from libcnm.cli.output import Output, OutputFailed
from libcnm.cli.services import service
from libcnm.cli.session import JSON_OPTION, Group, PartlyDone, Session, asks_for_json
from libcnm.cli.whole import doctor, topology
from libcnm.cli.wording import say_it_here
from libcnm.errors import CnmError


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="cnm")
@click.option("--state-dir", envvar="LIBCNM_STATE_DIR", default="/var/lib/libcnm", show_default=True, metavar="DIR")
@click.option("--run-dir", envvar="LIBCNM_RUN_DIR", default="/run/libcnm", show_default=True, metavar="DIR")
@click.option("--cluster-store", envvar="LIBCNM_CLUSTER_STORE", metavar="URL", help="The store that the hosts share.")
@click.option("--host", envvar="LIBCNM_HOST", metavar="NAME", help="This host's name in the cluster.")
@click.option("--advertise", envvar="LIBCNM_ADVERTISE", metavar="ADDRESS", help="The address other hosts reach it by.")
@click.option("--timeout", envvar="LIBCNM_TIMEOUT", type=float, default=10.0, show_default=True, metavar="SECONDS")
@click.option("--guardian", envvar="LIBCNM_GUARDIAN", type=int, hidden=True)
@JSON_OPTION
@click.pass_obj
def cnm(session: Session, /, **options: object) -> None:
    """Docker's Container Network Model from the command line.

    Each option can also be given as an environment variable: LIBCNM_STATE_DIR, LIBCNM_RUN_DIR, LIBCNM_CLUSTER_STORE,
    LIBCNM_HOST, LIBCNM_ADVERTISE, LIBCNM_TIMEOUT, LIBCNM_JSON.
    """
    session.options = {name: value for name, value in options.items() if value is not None}


@cnm.group()
def lab() -> None:
    """Simulated hosts on this machine, in namespaces of their own."""


@lab.command("demo")
@click.option("--out", default="libcnm-demo", show_default=True, metavar="DIR", help="Where the artefacts go.")
def lab_demo(out: str) -> int:
    """The main job, told step by step: two hosts, one overlay network, names that answer, proven by ping."""
    from libcnm.cli.demo import demo

    return demo(out)


@lab.command("shell")
@click.option("--hosts", default=2, show_default=True, metavar="N", help="How many hosts.")
def lab_shell(hosts: int) -> int:
    """A shell on the first of N simulated hosts; `lab-vm-2 COMMAND...` runs a command on another."""
    from libcnm.cli.lab_shell import lab_shell as run_shell

    return run_shell(hosts)


for command in (network, service, container, doctor, topology, events):
    cnm.add_command(command)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The program ``cnm``."""
    status = run(sys.argv[1:] if argv is None else list(argv))
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        sys.stderr = None  # what it still holds would be tried again at the end, and cost us the status
    sys.exit(status)


def run(words: list[str]) -> int:
    """Carry out a command line; its exit status."""
    _show_logs()
    try:
        with redirect_stdout(cast("TextIO", Output(sys.stdout))):
            status = _carry_out(words)
            sys.stdout.flush()
    except OutputFailed as failure:
        sys.stdout = None  # what it still holds would be tried again at the end
        if failure.errno == errno.EPIPE:
            return 128 + signal.SIGPIPE
        _tell(f"cnm: the output cannot be written: {failure.reason}")
        return 1
    return status


def _show_logs() -> None:
    """On stderr, as the result alone is on stdout; errors that were lived with are told in our words, too."""

    def reworded(record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(say_it_here(one, None) if isinstance(one, CnmError) else one for one in record.args)
        return True

    handler = logging.StreamHandler()
    handler.addFilter(reworded)
    logging.basicConfig(format="cnm: %(message)s", level=logging.WARNING, handlers=[handler])


def _carry_out(words: list[str]) -> int:
    session = Session()
    try:
        status = cnm.main(words, prog_name="cnm", obj=session, standalone_mode=False)
    except CnmError as error:
        return _report(session, error)
    except PartlyDone as partly:
        return _report_several(session, partly)
    except click.ClickException as error:
        session.json = session.json or asks_for_json(words)
        _usage(session, error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    return status if isinstance(status, int) else 0


def _report(session: Session, error: CnmError) -> int:
    error = say_it_here(error, session.context)
    if session.json:
        session.say(error.as_dict(), "")
    else:
        _tell_error(error.message, error.hint)
    return error.exit_code


def _report_several(session: Session, partly: PartlyDone) -> int:
    """As every document of an error this begins with one: the first. What was done and all errors follow."""
    failed = [(ref, say_it_here(error, session.context)) for ref, error in partly.failed]
    first = failed[0][1]
    if session.json:
        errors = [{"argument": ref, **error.as_dict()} for ref, error in failed]
        session.say({**first.as_dict(), partly.word: partly.done, "errors": errors}, "")
    else:
        for _, error in failed:
            _tell_error(error.message, error.hint)
    return first.exit_code


def _usage(session: Session, error: click.ClickException) -> None:
    context = getattr(error, "ctx", None)
    if not session.json and isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    hint = f"see '{context.command_path} --help'" if context is not None else None
    message = error.format_message()
    if session.json:
        session.say({"code": "invalid", "message": message, "hint": hint}, "")
    else:
        _tell_error(message, hint)


def _tell_error(message: str, hint: str | None) -> None:
    _tell(f"cnm: {message}" + (f"\n     {hint}" if hint else ""))


def _tell(text: str) -> None:
    """For people. Where stderr cannot be written either, the status alone is left to tell."""
    with suppress(OSError):
        print(text, file=sys.stderr)
