"""Which tests stay together in one process under pytest-xdist, and which come first.

Registered as a pytest plugin by conftest. xdist's own --dist=loadgroup does not know the ids that pytest has since 9.2:
it would spread the tests of each file.
"""

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

RAY, ENGINE, ANOTHER_ENGINE, POSTGRES = "ray", "engine", "another engine", "postgres"
_PLACES = {
    "tests/serve_app/running/": RAY,
    "tests/serve_app/classifier/": ENGINE,
    "tests/serve_app/cache/test_cache.py": ENGINE,
    "tests/serve_app/open_inference/": ANOTHER_ENGINE,
    "tests/serve_app/client/evaluate/": ANOTHER_ENGINE,
    "tests/serve_app/client/test_client_jobs.py": ANOTHER_ENGINE,
    "tests/serve_app/test_errors.py": ANOTHER_ENGINE,
    "tests/serve_app/test_head.py": ANOTHER_ENGINE,
    "tests/serve_app/test_shares.py": ANOTHER_ENGINE,
    "tests/serve_app/test_unknown_parameters.py": ANOTHER_ENGINE,
    "tests/serve_app/users/": POSTGRES,
}
"""RAY holds the tests of a whole service, one service at a time. Those that compute with TensorFlow in the test's own
process, which then loads it once, are in two groups of about the same length. POSTGRES starts one server for all of its
tests. Any other file is a group of its own."""
_FIRST = (
    RAY,
    "tests/loadtest/measure/test_kit_faults.py",
    "tests/loadtest/measure/test_kit_proof.py",
    ENGINE,
    ANOTHER_ENGINE,
    POSTGRES,
)
"""Groups that take longest: they begin first, those with an engine after RAY, which makes the model they wait for."""
_BEGINNING_S = 600
"""The first test of these groups makes the model or waits for it: half a minute, and several on a busy machine."""


def group_of(nodeid: str) -> str:
    """Return the name of a test's group."""
    path = nodeid.partition("::")[0]
    return next((group for place, group in _PLACES.items() if path.startswith(place)), path)


class _ByGroup(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process a whole group at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Return what spreads the tests over the processes."""
    return _ByGroup(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest groups first."""
    items.sort(key=lambda item: _FIRST.index(group) if (group := group_of(item.nodeid)) in _FIRST else len(_FIRST))
    for item in items:
        if group_of(item.nodeid) in {RAY, ENGINE, ANOTHER_ENGINE} and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_BEGINNING_S))
