"""What the kit refuses or gives up, each with the words that the person at the terminal reads.

BadInputError     a plan, an option or a folder that cannot be used: exit code 2
CellFailedError   one cell could not be measured: it is recorded with this reason, and the rest goes on
└ GeneratorLostError    one of several load generators ended, or is not heard of any more, before the load was over
"""


class BadInputError(Exception):
    """The input cannot be used; the message lists every fault, one a line, with where it is and what would do."""


class CellFailedError(Exception):
    """One cell could not be measured; the message is its reason."""


class GeneratorLostError(CellFailedError):
    """One of several load generators was lost in mid-load; the message names it."""
