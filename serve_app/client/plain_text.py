"""Makes text from outside safe to print: file names, labels, messages of a server, URLs with passwords."""

import re


def without_login(url: str) -> str:
    """Return `url` without user and password, as outputs and messages show it."""
    return re.sub(r"(?<=//)[^/?#]*@", "", url, count=1)


def refused(argument: str) -> str:
    """Return an argument that cannot be used as messages show it: hidden if it may be a URL with a password."""
    return "a URL with an @" if re.search(":.*@", argument, re.DOTALL) else argument


def without_logins(message: str) -> str:
    """Return a message with everything hidden that may be the login of a URL in an argument, as argparse quotes it."""
    return re.sub(r"\w+://.*@|[^\s'\":]+:\S*@", "…@", message, flags=re.DOTALL)


def printable(text: str) -> str:
    """Return `text` with invisible characters escaped, so that it cannot move the cursor or break a line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def examples(names: list[str], count: int) -> str:
    """Return `names` as a list, and how many of `count` it leaves out."""
    more = f" and {count - len(names):,} more" if count > len(names) else ""
    return ", ".join(printable(name) for name in names) + more
