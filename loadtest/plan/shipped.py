"""Finds the files that come with the kit (plans, service configs, locustfile) where the working folder has none."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# Of a path such as configs/stress/quick.yaml or loadtest/locustfile.py, in this order.
_ROOTS = (Path(), _PACKAGE, _PACKAGE.parent)


def find_file(given: Path) -> Path:
    """Return the file that a path in a plan or on the command line means; `given` itself where there is none."""
    return next((path for root in _ROOTS if (path := root / given).is_file()), given)


def find_plan(given: Path) -> Path:
    """Return the file that the path of a plan means, or the name of a shipped one such as `quick`."""
    named = find_file(Path("configs/stress") / f"{given}.yaml")
    found = find_file(given)
    return named if named.is_file() and not found.is_file() else found
