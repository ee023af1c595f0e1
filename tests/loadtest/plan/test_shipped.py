"""Which file the path of a plan, or its name, means: the working folder's, else the one that comes with the kit."""

from pathlib import Path

import pytest

from loadtest.plan.shipped import find_file, find_plan
from tests.service import CONFIGS, ROOT

LOCUSTFILE = Path("loadtest/locustfile.py")
QUICK = Path("configs/stress/quick.yaml")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_file_that_the_working_folder_lacks_is_the_one_that_comes_with_the_kit() -> None:
    assert find_file(LOCUSTFILE).samefile(ROOT / LOCUSTFILE)
    assert find_file(Path("configs/one_replica.yaml")).samefile(CONFIGS / "one_replica.yaml")


@pytest.mark.parametrize("given", [Path("quick"), QUICK])
def test_a_plan_is_found_by_its_name_and_by_its_path(given: Path) -> None:
    assert find_plan(given).samefile(ROOT / QUICK)


@pytest.mark.parametrize("given", [Path("quick"), QUICK])
def test_the_working_folders_file_goes_first_and_is_named_as_it_was_given(given: Path) -> None:
    given.parent.mkdir(parents=True, exist_ok=True)
    given.touch()
    assert find_plan(given) == given


@pytest.mark.parametrize("given", ["locustfile.py", "plan/plan.py", "serve_app/users/api.py", "configs", ""])
def test_only_paths_of_shipped_files_mean_shipped_files(given: str) -> None:
    assert find_file(Path(given)) == Path(given)


def test_what_is_nowhere_stays_as_it_was_given() -> None:
    for given in (Path("quikc"), Path("configs/stress/none.yaml"), Path("/no/such.yaml")):
        assert find_plan(given) == find_file(given) == given
