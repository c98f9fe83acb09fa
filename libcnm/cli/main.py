"""The entry point: global options, and what becomes of an error: one line for people or one document for programs.

Every error of libcnm's has its exit status (:attr:`libcnm.errors.CnmError.exit_code`); a wrong word is 2, as for every
program; Ctrl-C is 130. An exception that is none of libcnm's is a bug and ends with its traceback.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

try:
    import click
except ModuleNotFoundError as missing:  # pragma: no cover - only without the extra
    sys.exit(f"cnm: {missing}: the command line needs the extra: pip install 'libcnm[cli]'")

from libcnm import __version__
from libcnm.cli.containers import container
from libcnm.cli.events import events
from libcnm.cli.networks import network
from libcnm.cli.services import service
from libcnm.cli.session import JSON_OPTION, Session
from libcnm.cli.whole import doctor, topology
from libcnm.errors import CnmError, KernelError, NotSupported, Unavailable


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
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
def lab_demo(out: str) -> None:
    """The main job, told step by step: two hosts, one overlay network, names that answer, proven by ping."""
    from libcnm.cli.demo import demo

    sys.exit(demo(out))


@lab.command("shell")
@click.option("--hosts", default=2, show_default=True, metavar="N", help="How many hosts.")
def lab_shell(hosts: int) -> None:
    """A shell on the first of N simulated hosts; `lab-vm-2 COMMAND...` runs a command on another."""
    from libcnm.cli.lab_shell import lab_shell as run_shell

    sys.exit(run_shell(hosts))


for command in (network, service, container, doctor, topology, events):
    cnm.add_command(command)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The program ``cnm``."""
    sys.exit(run(sys.argv[1:] if argv is None else list(argv)))


def run(words: list[str]) -> int:
    """Carry out a command line; its exit status."""
    session = Session()
    logging.basicConfig(format="cnm: %(message)s", level=logging.WARNING)  # on stderr; the result alone is on stdout
    try:
        status = cnm.main(words, prog_name="cnm", obj=session, standalone_mode=False)
    except CnmError as error:
        _blame_privilege(error)
        _report(session, error.message, error.hint, error.as_dict())
        return error.exit_code
    except click.ClickException as error:
        _usage(session, error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        sys.stdout = None  # whoever read has gone; nothing is left to be flushed at the end
        return 141
    return status if isinstance(status, int) else 0


def _blame_privilege(error: CnmError) -> None:
    """To an ordinary user say what all of its refusals have in common, where an error has no advice of its own."""
    from libcnm.system.userns import rules_its_network

    if error.hint is None and isinstance(error, Unavailable | KernelError | NotSupported) and not rules_its_network():
        error.hint = "cnm changes this machine's network, which takes root; without, there is `cnm lab shell`"


def _usage(session: Session, error: click.ClickException) -> None:
    context = getattr(error, "ctx", None)
    if not session.json and isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    hint = f"see '{context.command_path} --help'" if context is not None else None
    message = error.format_message()
    _report(session, message, hint, {"code": "invalid", "message": message, "hint": hint})


def _report(session: Session, message: str, hint: str | None, document: dict[str, object]) -> None:
    if session.json:
        print(json.dumps(document, indent=2))
        return
    print(f"cnm: {message}", file=sys.stderr)
    if hint:
        print(f"     {hint}", file=sys.stderr)
