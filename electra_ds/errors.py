"""Errors a user can act on, and how they are shown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something in the input, the configuration or the machine that the user can put right.

    The message names the thing, its value, what was expected and what to do. The command line shows
    it without a traceback (``--debug`` brings the traceback back) and exits with status 2.
    """


class DataError(UserError):
    """A file of a corpus, a shard set or a checkpoint is missing, altered or cut short."""


class MachineError(UserError):
    """Something about the machines, not about the input: another try, perhaps on other nodes, may go better.

    Shown like its parent; a batch job that ends by it is started again.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean X?"`` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def divisors(value: int) -> str:
    """List the numbers that divide `value`, for messages that say what would fit."""
    return ", ".join(str(number) for number in range(1, value + 1) if value % number == 0)
