"""What the kit refuses or gives up, each with the words that the person at the terminal reads.

BadInputError     a plan, an option or a folder that cannot be used: exit code 2
CellFailedError   one cell could not be measured: it is recorded with this reason, and the rest goes on
├ TargetFailedError     the target ended, was not ready in time, or answered nothing of the warm-up right
├ GeneratorLostError    one of several load generators ended, or is not heard of any more, before the load was over
└ RowsLostError         not all rows that one of them sent have come
"""

from typing import ClassVar, Literal

FailureCode = Literal["failed", "target_failed", "generator_lost", "rows_lost"]
"""What kind of CellFailedError ended a cell."""


class BadInputError(Exception):
    """The input cannot be used; the message lists every fault, one a line, with where it is and what would do."""


class CellFailedError(Exception):
    """One cell could not be measured; the message is its reason."""

    code: ClassVar[FailureCode] = "failed"


class TargetFailedError(CellFailedError):
    """The target failed, by itself as far as the kit can tell; the message says how."""

    code = "target_failed"


class GeneratorLostError(CellFailedError):
    """One of several load generators was lost in mid-load; the message names it."""

    code = "generator_lost"


class RowsLostError(CellFailedError):
    """Rows of one of several load generators are missing; the message names it."""

    code = "rows_lost"
