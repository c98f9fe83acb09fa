"""Child processes, for whoever starts them in another namespace: :func:`subprocess.run` around a start of one's own.

No shell anywhere: a command is a list of arguments.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from libcnm.errors import Invalid
from libcnm.model import limits
from libcnm.model.arguments import flag, patience, sequence


def be_patient() -> None:
    """The calling thread no longer interrupts others when it is woken; it runs when a processor is free, or its turn
    comes (SCHED_BATCH, sched(7)). For work that somebody asks for and then goes on without waiting. Threads started
    from it are ordinary ones.
    """
    with suppress(OSError):  # not allowed here: then it is merely less polite
        os.sched_setscheduler(0, os.SCHED_BATCH | os.SCHED_RESET_ON_FORK, os.sched_param(0))


def checked_argv(argv: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """The arguments, or Invalid for none, for a command line in one string, or for a shell."""
    hint = "there is no shell here: ['ping', '-c1', 'db']"
    if isinstance(argv, str | bytes) or options.get("shell"):
        raise Invalid("argv", argv, "is not a list of arguments", hint=hint)
    words = sequence(argv, "argv", limits.ARGUMENTS)
    if not words:
        raise Invalid("argv", argv, "names no program", hint=hint)
    return [_argument(word) for word in words]


def _argument(word: str | bytes | os.PathLike[str]) -> str:
    try:
        octets = os.fsencode(word)
    except (TypeError, UnicodeEncodeError):
        raise Invalid("argv", word, "is no argument: neither a string that can be encoded, nor a path") from None
    if b"\0" in octets:
        raise Invalid("argv", word, "holds a NUL, which no argument can")
    return os.fsdecode(octets)


def run(
    start: Callable[..., subprocess.Popen[Any]],
    argv: Sequence[str],
    *,
    check: bool = False,
    capture_output: bool = False,
    timeout: float | None = None,
    given: bytes | str | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """What :func:`subprocess.run` does, with ``start(argv, **options)`` for Popen; ``given`` is its ``input``.

    Waits, collects, and kills the process on a time-out or any exception.
    """
    patience(timeout)
    flag(check, "check")
    flag(capture_output, "capture_output")
    if given is not None and not isinstance(given, bytes | str):
        raise Invalid("input", given, "is neither bytes nor a string")
    if capture_output:
        options["stdout"] = options["stderr"] = subprocess.PIPE
    if given is not None:
        options["stdin"] = subprocess.PIPE
    with start(argv, **options) as process:
        try:
            out, err = process.communicate(given, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(list(argv), process.returncode, out, err)
    if check:
        done.check_returncode()
    return done
