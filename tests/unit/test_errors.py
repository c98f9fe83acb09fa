"""The errors' own contract: stable codes, statuses and exit codes, fields as plain data, messages that help."""

from __future__ import annotations

import errno
import json

import pytest

from libcnm import api, errors
from libcnm.errors import CnmError

SAMPLES: list[CnmError] = [
    errors.Invalid("name", "a b", "is not a valid name", hint="no blanks"),
    errors.NotFound("network", "blue"),
    errors.NotFound("sandbox", "9276fef8872f", name="s2"),
    errors.Ambiguous("network", "ab", ["abc", "abd"]),
    errors.AlreadyExists("network", "blue", holder="x", differences=["driver"]),
    errors.InUse(
        "network", "blue", [f"endpoint {number}" for number in range(10)], hint="leave first", remedy="detach"
    ),
    errors.Forbidden("no"),
    errors.Exhausted("address", ["10.0.0.0/30: 2 held"] * 7),
    errors.Unavailable("store", "gone", outcome_unknown=True),
    errors.DeadlineExceeded("store get", 2.5),
    errors.Conflict(["a", "b"]),
    errors.NotSupported("no sctp"),
    errors.Corrupt("network/x", "not JSON"),
    errors.DriverError("x", "broken", distribution="x-driver"),
    errors.KernelError(errno.EEXIST, "link br0", extack="File exists"),
]
CLASSES = {type(sample) for sample in SAMPLES}


def test_every_class_is_sampled_and_public() -> None:
    """The root and each category are in ``libcnm.api``."""
    assert CLASSES == {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, CnmError)} - {
        CnmError
    }
    assert {one.__name__ for one in CLASSES} | {"CnmError"} <= set(api.__all__)


def test_codes_tell_classes_apart() -> None:
    """A program that gets JSON, or an exit status that is no success, knows the category."""
    assert len(CLASSES) == len({one.code for one in CLASSES})
    assert all(0 < one.exit_code < 126 and 400 <= one.http_status < 600 for one in CLASSES)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: error.code)
def test_an_error_is_plain_data(error: CnmError) -> None:
    """``as_dict`` is JSON with the code, the message, the hint and every field."""
    found = json.loads(json.dumps(error.as_dict()))
    assert error.code == found["code"]
    assert error.message == found["message"]
    assert vars(error).keys() == found.keys() - {"code"}
    assert str(error) == (f"{error.message} ({error.hint})" if error.hint else error.message)


def test_lists_are_cut() -> None:
    """A message names the first few holders and how many more; the field has them all."""
    in_use = next(one for one in SAMPLES if isinstance(one, errors.InUse))
    assert "and 2 more" in str(in_use)
    assert 10 == len(in_use.holders)
    exhausted = next(one for one in SAMPLES if isinstance(one, errors.Exhausted))
    assert "and 1 more" in str(exhausted)


def test_hostile_values_do_not_flood() -> None:
    """A long or odd value is shown as repr, cut."""
    error = errors.Invalid("name", "\x1b[31m" + "x" * 10_000, "is not a name")
    assert len(str(error)) < 200
    assert "\x1b" not in str(error)


def test_only_what_may_help_is_retryable() -> None:
    """Unavailable, its deadline, and a lost race."""
    retryable = {one.code for one in CLASSES if one.retryable}
    assert {"unavailable", "deadline-exceeded", "conflict"} == retryable
