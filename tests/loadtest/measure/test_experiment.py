"""The folder of an experiment: what opens it, what is refused, and what resumes."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from loadtest.errors import BadInputError
from loadtest.faults.fault_plan import FaultPlan, SoakPlan
from loadtest.faults.folder import FaultFolder
from loadtest.measure.experiment import Need, opened
from loadtest.rows.run_folder import write_json
from tests.recorded.kinds import RECORDED, lay_out


class Limits(BaseModel):
    p95_ms: float
    rps: float = 1


class Asked(BaseModel):
    users: int
    limits: Limits = Limits(p95_ms=1)
    found: list[int] = []


def open_once(path: Path, asked: Asked, needs: dict[str, Path] | None = None) -> Asked:
    named = [Need(key, file) for key, file in (needs or {}).items()]
    with opened(path, asked, command="run", found={"found"}, needs=named) as record:
        return record


def test_a_new_folder_holds_what_was_asked_and_resumes_with_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "asked.json"
    assert open_once(path, Asked(users=3)) == Asked(users=3)
    write_json(path, Asked(users=3, found=[7]))
    assert open_once(path, Asked(users=3)).found == [7]


def test_another_question_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    open_once(tmp_path / "asked.json", Asked(users=3))
    with pytest.raises(BadInputError, match=r"\(differing: users, limits.rps\).* --out"):
        open_once(tmp_path / "asked.json", Asked(users=4, limits=Limits(p95_ms=1, rps=2)))


def test_a_record_that_lacks_a_newer_key_resumes(tmp_path: Path) -> None:
    (tmp_path / "asked.json").write_text('{"users": 3, "limits": {"p95_ms": 1}}')
    assert open_once(tmp_path / "asked.json", Asked(users=3)).limits.rps == 1


@pytest.mark.parametrize(("name", "told"), [("notes.txt", "not empty and not a folder of"), ("asked.json", "writes")])
def test_a_folder_of_something_else_is_left_alone(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(BadInputError, match=rf"{told}[^:]*.*--out"):
        open_once(tmp_path / "asked.json", Asked(users=3))
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_is_open_for_one_experiment_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "asked.json"
    with opened(path, Asked(users=3), command="run"), pytest.raises(BadInputError, match=r"another run uses .* --out"):
        open_once(path, Asked(users=3))
    open_once(path, Asked(users=3))


def test_missing_files_are_named_together_and_nothing_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "asked.json"
    told = r"one: nix is not a file\ntwo: nix is not a file\nrelative paths begin in the folder in which loadtest runs"
    with pytest.raises(BadInputError, match=told):
        open_once(path, Asked(users=3), {"one": Path("nix"), "two": Path("nix")})
    assert not path.exists()


@pytest.mark.parametrize(("kind", "plan"), [("faults", FaultPlan), ("soak", SoakPlan)])
def test_a_recorded_folder_of_faults_is_resumed(kind: str, plan: type[FaultPlan | SoakPlan], tmp_path: Path) -> None:
    assert (RECORDED / kind).is_dir()
    lay_out(kind, tmp_path / kind)
    folder = FaultFolder(tmp_path / kind / kind)
    asked = folder.read_plan(plan)
    with opened(folder.plan, asked, command=kind) as record:
        assert record == asked
