"""Text from outside (file names, labels, messages of a server) made safe for a terminal."""

import re


def without_login(url: str) -> str:
    """Return `url` as outputs and messages may show it, without user and password."""
    return re.sub(r"(?<=//)[^/?#]*@", "", url, count=1)


def refused(url: str) -> str:
    """Return a URL that cannot be read as messages may show it: not at all when some part of it may be a password."""
    return "a URL with an @" if "@" in url else url


def printable(text: str) -> str:
    """Return `text` with what is no visible character escaped: nothing in it can move a cursor or break a line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def examples(names: list[str], count: int) -> str:
    """Return `names` as a list that also tells how many of `count` are not in it."""
    more = f" and {count - len(names):,} more" if count > len(names) else ""
    return ", ".join(printable(name) for name in names) + more
