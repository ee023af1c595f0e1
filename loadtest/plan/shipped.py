"""Finds the files that come with the kit (plans, service configs, locustfile) where the working folder has none."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# By the first folder of their paths. No other path is looked for here: `locustfile.py` must not mean the kit's own.
_SHIPPED_BELOW = {"configs": _PACKAGE, "loadtest": _PACKAGE.parent}


def find_file(given: Path) -> Path:
    """Return the file that a path in a plan or on the command line means; `given` itself where there is none."""
    first = given.parts[0] if given.parts else ""
    shipped = _SHIPPED_BELOW.get(first, Path()) / given
    return shipped if shipped.is_file() and not given.is_file() else given


def find_plan(given: Path) -> Path:
    """Return the file that the path of a plan means, or the name of a shipped one such as `quick`."""
    named = find_file(Path("configs/stress") / f"{given}.yaml")
    found = find_file(given)
    return named if named.is_file() and not found.is_file() else found
