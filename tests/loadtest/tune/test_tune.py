"""Tuning without a load: what is tried, for how long, what is promoted, and what is recommended by given figures."""

import argparse
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from loadtest.commands.tune import add_command, read_overrides
from loadtest.errors import BadInputError
from loadtest.plan.plan import load_plan
from loadtest.plan.targets import Target
from loadtest.rows.run_folder import Cell, RunFolder
from loadtest.tune.candidates import base_values, choose_spread, make_grid, make_target, render_config
from loadtest.tune.config_path import read_value, replace_values
from loadtest.tune.halving import Costs, Round, count_affordable, halve, plan_rounds, promote
from loadtest.tune.ranking import Measured, collect, rank
from loadtest.tune.recommendation import recommend
from loadtest.tune.result import TUNE_UNITS, make_result
from loadtest.tune.search import Search
from loadtest.tune.terminal import show_result
from loadtest.tune.tune_file import Tuning, holds, load_tuning, read_objective
from loadtest.verdict.summary import summarize
from serve_app.deployments.config_file import check_config, load_config
from tests.loadtest.verdict.test_run_comparison import fail
from tests.made_run import MadeCell, made_plan, made_target, write_made_run
from tests.service import CONFIGS

SHIPPED = CONFIGS / "stress" / "tune.yaml"
BASE = """# The service.
service:
  workers: 1   # how many
  list:
    - name: a.b
      values: {engine: 'old', fast: true}
    - {name: c, values: {engine: new}}
  text: |
    several
"""
COSTS = Costs(overhead_s=30, shortest_s=20)


def write_tune_file(folder: Path, **changes: Any) -> Path:
    """Write a tune file for BASE with `changes` for its keys, and the plan that it names."""
    (folder / "base.yaml").write_text(BASE)
    target = {
        "name": "service",
        "start": shlex.join(["serve", str(folder / "base.yaml")]),
        "url": "http://127.0.0.1:1",
        "replicas": {"role": "classifier", "count": 1},
    }
    plan = made_plan(targets=[target], roles=[{"name": "classifier", "command": "x"}], baseline=None, metrics=None)
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan.model_dump(mode="json")))
    tune = {
        "plan": str(folder / "plan.yaml"),
        "base": str(folder / "base.yaml"),
        "vary": [
            {"name": "workers", "path": "service.workers", "values": [1, 2]},
            {"name": "engine", "path": "service.list[name=a.b].values.engine", "values": ["old", "new"]},
        ],
        "replicas_knob": "workers",
        "users": 25,
        "objective": "minimise predict.p95_ms",
        "minutes": 60,
        **changes,
    }
    path = folder / "tune.yaml"
    path.write_text(yaml.safe_dump(tune))
    return path


def faults_of(path: Path, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(BadInputError) as caught:
        load_tuning(path, overrides)
    assert all(line.startswith((f"{path}: ", "--vary: ")) for line in str(caught.value).splitlines())
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("service.workers", 1),
        ("service.list[name=a.b].values.engine", "old"),
        ("service.list[name=c].values.engine", "new"),
        ("service.list[name=a.b].values.fast", True),
    ],
)
def test_a_path_finds_a_value(path: str, value: object) -> None:
    assert read_value(BASE, path) == value


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("service.worker", "service has no key 'worker'; did you mean workers?"),
        ("service.workers.x", "service.workers has no key 'x'; known: none"),
        ("service.list[name=b].values", "service.list has 0 items with name=b; known: a.b, c"),
        ("service.list", "service.list is not a single value"),
        ("service.text", "service.text is not a single value"),
        ("service..x", "is not a path such as"),
        ("service.list[0].x", "is not a path such as"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ends(path: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        read_value(BASE, path)


def test_values_are_replaced_and_all_else_stays_comments_included() -> None:
    changed = replace_values(
        BASE,
        {
            "service.workers": 12,
            "service.list[name=a.b].values.engine": "yes",
            "service.list[name=a.b].values.fast": False,
        },
    )
    expected = BASE.replace("1 ", "12 ", 1).replace("'old'", "'yes'").replace("fast: true", "fast: false")
    assert changed == expected
    assert yaml.safe_load(changed)["service"]["list"][0]["values"] == {"engine": "yes", "fast": False}


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("service.limit", "service:\n  limit: 3\n  workers: 1   # how many\n"),
        ("limits.users.most", "limits: {users: {most: 3}}\nservice:\n"),
        ("service.list[name=a.b].limit", "    - limit: 3\n      name: a.b\n"),
        ("service.list[name=a.b].values.limit", "values: {limit: 3, engine: 'old', fast: true}\n"),
    ],
)
def test_a_key_that_the_file_leaves_to_its_default_is_added(path: str, place: str) -> None:
    assert read_value(BASE, path) is None
    changed = replace_values(BASE, {path: 3})
    assert place in changed
    assert read_value(changed, path) == 3
    assert len(changed) - len(BASE) < 40
    assert replace_values(changed, {path: 4}) == changed.replace("3", "4")


SHARED = """number: &n 2
tagged: !!int &t 2
same: *n
one: &one {name: a, threads: 2, deep: {cache: 1}}
other: *one
merged:
  <<: *one
  k: 1
block: &block
  threads: 2
list:
  - &item {name: x, threads: 2}
  - *one
base: !!map &base
  threads: 2
above:
  <<: [*base]
servers: &servers
  - {name: y, threads: 2}
same_servers: *servers
pools:
  - &pool {name: z, threads: 2}
  - {name: v, size: 1, like: *pool}
"""


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("number", "number has an anchor (`&`)"),
        ("tagged", "tagged has an anchor (`&`)"),
        ("same", "same is an alias (`*`)"),
        ("other.threads", "other is an alias (`*`)"),
        ("other.deep.cache", "other is an alias (`*`)"),
        ("list[name=a].threads", "list[name=a] is an alias (`*`)"),
        ("merged.threads", "merged may have 'threads' from its `<<`"),
        ("merged.deep.cache", "merged may have 'deep' from its `<<`"),
        ("one.limit", "one has an anchor (`&`)"),
        ("one.threads", "one has an anchor (`&`), and `*one` stands elsewhere"),
        ("one.deep.cache", "one has an anchor (`&`), and `*one` stands elsewhere"),
        ("one.deep.more", "one has an anchor (`&`), and `*one` stands elsewhere"),
        ("base.threads", "base has an anchor (`&`), and `*base` stands elsewhere"),
        ("servers[name=y].threads", "servers has an anchor (`&`), and `*servers` stands elsewhere"),
        ("pools[name=z].threads", "pools[name=z] has an anchor (`&`), and `*pool` stands elsewhere"),
        ("block.limit", "block has an anchor (`&`)"),
    ],
)
def test_a_value_that_several_places_share_is_refused(tmp_path: Path, path: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(told)}.*; write the value out"):
        replace_values(SHARED, {path: 3})
    file = write_tune_file(tmp_path, vary=[{"name": "a", "path": path, "values": [3]}], replicas_knob=None)
    (tmp_path / "base.yaml").write_text(SHARED)
    assert f"vary.a.path: {tmp_path / 'base.yaml'}: {told}" in faults_of(file)


@pytest.mark.parametrize("path", ["list[name=x].threads", "block.threads", "merged.k", "pools[name=v].size"])
def test_a_value_of_its_own_in_a_file_with_anchors_is_replaced_where_it_stands(path: str) -> None:
    changed = replace_values(SHARED, {path: 7})
    assert read_value(changed, path) == 7
    (line,) = [new for old, new in zip(SHARED.splitlines(), changed.splitlines(), strict=True) if old != new]
    assert "7" in line
    yaml.safe_load(changed)


def test_two_keys_of_a_mapping_that_is_not_there_are_added_to_one() -> None:
    changed = yaml.safe_load(replace_values(BASE, {"service.limits.a": 1, "service.limits.b": 2}))
    assert changed["service"] == {**yaml.safe_load(BASE)["service"], "limits": {"a": 1, "b": 2}}


@pytest.mark.parametrize(
    "path",
    [
        *(f"args.{key}" for key in ("max_queue", "max_pixels", "decode_threads", "niceness", "upload_timeout_s")),
        *(f"args.{key}" for key in ("seed", "max_held_bytes", "precision", "cache.ttl_s", "jobs.max_batch")),
        "deployments[name=Classifier].max_ongoing_requests",
        "deployments[name=Classifier].health_check_timeout_s",
    ],
)
def test_every_setting_of_the_service_can_be_a_knob_also_when_the_shipped_config_leaves_it_out(path: str) -> None:
    text = (CONFIGS / "one_replica.yaml").read_text()
    whole = f"applications[name=model].{path}"
    assert read_value(text, whole) is None
    value = "bfloat16" if path.endswith("precision") else 300_000_000 if path.endswith("bytes") else 7
    config = yaml.safe_load(replace_values(text, {whole: value, "applications[name=model].args.engine": "openvino"}))
    check_config(config, Path("a.yaml"))
    assert config != yaml.safe_load(text)


@pytest.mark.parametrize(
    ("constraint", "held"),
    [
        ("a * b <= cores", True),
        ("a * b < cores", False),
        ("a*b == 4", True),
        ("cores > 2 * b", False),
        ("a >= 1.5", True),
    ],
)
def test_a_constraint_compares_products(constraint: str, *, held: bool) -> None:
    assert holds(constraint, {"a": 2, "b": 2, "c": "x"}, cores=4) is held


def test_auto_values_are_powers_of_two_up_to_the_cores_and_constraints_thin_the_grid(tmp_path: Path) -> None:
    knobs = [
        {"name": "workers", "path": "service.workers", "values": "auto"},
        {"name": "engine", "path": "service.list[name=c].values.engine", "values": ["old", "json", "x"],
         "requires": {"json": "json", "x": "no_such_module.part"}},
    ]  # fmt: skip
    tuning = load_tuning(write_tune_file(tmp_path, vary=knobs, constraints=["2 * workers <= cores"]))
    tuning = replace(tuning, cores=6)
    assert tuning.knob("workers").values_on(6) == [1, 2, 4, 6]
    grid = make_grid(tuning)
    assert [tuple(one.knobs.values()) for one in grid.candidates] == [(1, "old"), (1, "json"), (2, "old"), (2, "json")]
    (skipped,) = grid.skipped
    assert (skipped.knob, skipped.value) == ("engine", "x")
    assert skipped.reason == "the Python module no_such_module.part is not installed"
    assert [one.knobs["workers"] for one in grid.excluded] == [4, 4, 6, 6]


def test_all_faults_of_a_tune_file_are_told_at_once(tmp_path: Path) -> None:
    knob = {"name": "a", "path": "x[1]", "values": []}
    path = write_tune_file(
        tmp_path,
        vary=[knob],
        minute=3,
        users=0,
        objective="minimise rps",
        limits=["p95 < 3"],
        constraints=["a + b < 1"],
    )
    told = {line.removeprefix(f"{path}: ").split(":")[0] for line in faults_of(path).splitlines()}
    assert {"vary.0.path", "minute", "users", "objective", "limits.0", "constraints.0"} <= told
    assert any(place.startswith("vary.0.values") for place in told)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"minutes": float("inf")}, "minutes: Input should be a finite number"),
        ({"overhead_s": float("inf")}, "overhead_s: Input should be a finite number"),
        ({"replicas_knob": "nix"}, "replicas_knob: 'nix' is not one of workers, engine"),
        ({"constraints": ["workers * nix <= cores"]}, "'nix' is not one of workers, engine, cores"),
        ({"constraints": ["engine <= cores"]}, "not all values of engine are numbers"),
        ({"replicas_knob": "engine"}, "numbers of replicas are whole"),
        ({"target": "other"}, "target: 'other' is not one of service"),
        ({"objective": "minimise nix.p95_ms"}, "objective: 'nix' is not one of lookup, predict"),
        ({"limits": ["nix.p95_ms <= 3"]}, "'nix' is not one of lookup, predict"),
        ({"vary": [{"name": "a", "path": "service.worker", "values": [1]}], "replicas_knob": None}, "no key 'worker'"),
        (
            {"vary": [{"name": "a", "path": "service.workers", "values": [1, 1]}], "replicas_knob": None},
            "is given twice",
        ),
        (
            {"vary": [{"name": "a", "path": "service.workers", "values": [1], "requires": {"2": "x"}}]},
            "not among the values",
        ),
        ({"base": "nix.yaml"}, "base: nix.yaml cannot be read"),
    ],
)
def test_what_does_not_fit_together_is_told(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in faults_of(write_tune_file(tmp_path, **changes))


def test_options_replace_keys_and_values_of_knobs(tmp_path: Path) -> None:
    path = write_tune_file(tmp_path)
    tuning = load_tuning(
        path, {"users": 7, "vary": {"workers": [3]}, "limits": ["failures_percent<=0", "lookup.p95_ms<=5"]}
    )
    assert (tuning.file.users, tuning.knob("workers").values, len(tuning.file.limits)) == (7, [3], 2)
    assert tuning.knob("engine").values == ["old", "new"]
    assert faults_of(path, {"vary": {"nix": [1]}}) == f"--vary: {path} has no nix; it has workers, engine"


def test_options_are_read_as_yaml_reads_values() -> None:
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers())
    given = ["tune", "--vary", "replicas=1,2", "--vary", "engine=openvino,x: y", "--vary", "threads=auto"]
    arguments = parser.parse_args([*given, "--slo", "lookup.p95_ms<=50,failures_percent<=0", "--minutes", "2.5"])
    assert read_overrides(arguments) == {
        "vary": {"replicas": [1, 2], "engine": ["openvino", "x: y"], "threads": "auto"},
        "limits": ["lookup.p95_ms<=50", "failures_percent<=0"],
        "minutes": 2.5,
    }
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["tune", "--vary", "replicas"])


@pytest.mark.parametrize("text", ["minimise rps", "maximise predict.p95_ms", "minimise p95_ms", "predict.p95_ms", 3])
def test_an_objective_that_cannot_be_judged_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"maximise"):
        read_objective(text)


def test_halving_ends_with_the_finalists() -> None:
    assert halve(12, 2) == [12, 6, 3, 2]
    assert halve(5, 3) == [5, 3]
    assert halve(2, 3) == [2]


def test_rounds_grow_with_the_time_there_is_and_never_exceed_it() -> None:
    sizes = halve(8, 2)
    for minutes in range(1, 200, 3):
        rounds = plan_rounds(sizes, COSTS, minutes * 60)
        assert COSTS.of(rounds) <= minutes * 60
    # 8 + 4 + 6 cells of 50 s are 15 minutes.
    assert plan_rounds(sizes, COSTS, 15 * 60) == [Round(8, 1, 20), Round(4, 1, 20), Round(2, 3, 20)]
    # With loads of 20, 40 and 80 s, they are 22 minutes.
    assert plan_rounds(sizes, COSTS, 22 * 60 + 40) == [Round(8, 1, 20), Round(4, 1, 40), Round(2, 3, 80)]


def test_time_left_over_goes_into_repetitions_of_the_final() -> None:
    assert plan_rounds([2], COSTS, 3600) == [Round(2, 6, 20)]
    assert plan_rounds([2], COSTS, 2 * 4 * 50) == [Round(2, 4, 20)]


def test_without_time_the_final_is_shortened_and_then_left_out() -> None:
    assert plan_rounds([4, 2], COSTS, 300) == [Round(2, 3, 20)]
    assert plan_rounds([4, 2], COSTS, 299) == [Round(2, 2, 20)]
    assert plan_rounds([4, 2], COSTS, 100) == [Round(2, 1, 20)]
    assert plan_rounds([4, 2], COSTS, 99) == []
    assert plan_rounds([], COSTS, 1000) == []


def test_so_many_candidates_are_tried_as_the_time_allows() -> None:
    assert count_affordable(8, 2, COSTS, 15 * 60) == 8
    assert count_affordable(8, 2, COSTS, 15 * 60 - 1) == 7
    assert count_affordable(8, 2, COSTS, 1) == 2
    assert count_affordable(1, 2, COSTS, 1) == 1


def test_the_best_of_each_group_is_promoted_even_when_it_is_last() -> None:
    assert promote("abcdef", [1, 1, 1, 1, 1, 2], 3) == ["a", "b", "f"]
    assert promote("abc", [1, 2, 1], 2) == ["a", "b"]
    assert promote("abc", [1, 1, 1], 2) == ["a", "b"]
    assert promote("ab", [1, 2], 5) == ["a", "b"]
    assert promote("abc", [1, 2, 3], 2) == ["a", "b"]


def test_a_part_of_the_grid_holds_every_value_and_the_base(tmp_path: Path) -> None:
    path = write_tune_file(
        tmp_path,
        vary=[
            {"name": "workers", "path": "service.workers", "values": [1, 2, 3]},
            {"name": "engine", "path": "service.list[name=a.b].values.engine", "values": ["new", "old", "x"]},
        ],
    )
    grid = make_grid(load_tuning(path))
    chosen = choose_spread(grid.candidates, 3, {"workers": 1, "engine": "old"})
    assert {"workers": 1, "engine": "old"} in [one.knobs for one in chosen]
    for name in ("workers", "engine"):
        assert len({one.knobs[name] for one in chosen}) == 3
    assert choose_spread(grid.candidates, 99, {}) == grid.candidates


def test_the_time_decides_how_many_are_tried_and_too_little_of_it_is_refused(tmp_path: Path) -> None:
    path = write_tune_file(tmp_path, overhead_s=20)  # the plan's load takes 60 s
    assert [len(Search(load_tuning(path, {"minutes": minutes}), tmp_path, print).tried) for minutes in (14, 10, 4)] == [
        4,
        2,
        2,
    ]
    with pytest.raises(BadInputError, match=r"minutes: 1 are not enough to measure 2 candidates once.*about 2\.7"):
        Search(load_tuning(path, {"minutes": 1}), tmp_path, print)


def test_a_search_goes_on_with_other_minutes_and_the_candidates_that_it_began_with(tmp_path: Path) -> None:
    path, folder = write_tune_file(tmp_path, overhead_s=20), tmp_path / "out"
    begun = Search(load_tuning(path, {"minutes": 4}), folder, print)
    with begun.opened():
        assert [one.name for one in begun.tried] == ["c01", "c04"]
    for minutes in (14, 4):
        resumed = Search(load_tuning(path, {"minutes": minutes}), folder, print)
        with resumed.opened():
            assert resumed.tried == begun.tried
    with (
        pytest.raises(BadInputError, match=r"differing: users\)"),
        Search(load_tuning(path, {"users": 24}), folder, print).opened(),
    ):
        pass


def test_a_final_for_which_there_is_little_time_can_be_completed_with_more_minutes(tmp_path: Path) -> None:
    path, folder = write_tune_file(tmp_path, overhead_s=20), tmp_path / "out"
    search = Search(load_tuning(path, {"minutes": 4}), folder, print)
    assert [one.repetitions for one in search._planned] == [1]
    plan = search._next_plan(search.tried, [2])
    assert plan
    assert plan.repetitions == 3


def test_more_users_than_the_plan_has_time_for_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="duration_s: 60 s leave no steady window for 5000 users"):
        Search(load_tuning(write_tune_file(tmp_path), {"users": 5000}), tmp_path / "out", print)
    assert not (tmp_path / "out").exists()


def test_a_candidates_target_serves_its_own_file_and_asks_for_its_replicas(tmp_path: Path) -> None:
    tuning = load_tuning(write_tune_file(tmp_path))
    candidate = make_grid(tuning).candidates[-1]
    target = make_target(tuning, candidate, tmp_path / "own file.yaml")
    assert target.start == shlex.join(["serve", str(tmp_path / "own file.yaml")])
    assert target.replicas
    assert target.replicas.count == 2
    assert target.title == "workers=2 engine=new"
    assert Target.model_validate(target.model_dump()) == target


def test_a_base_whose_path_has_a_space_is_one_word_of_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "my service"
    folder.mkdir()
    tuning = load_tuning(write_tune_file(folder))
    target = make_target(tuning, make_grid(tuning).candidates[-1], folder / "own.yaml")
    assert target.start
    assert shlex.split(target.start) == ["serve", str(folder / "own.yaml")]


def test_the_shipped_file_makes_configs_that_the_service_accepts(tmp_path: Path) -> None:
    tuning = load_tuning(SHIPPED)
    tuning = replace(tuning, cores=2)
    grid = make_grid(tuning)
    assert (tuning.plan, tuning.file.base) == (
        load_plan(CONFIGS / "stress" / "quick.yaml"),
        Path("configs/one_replica.yaml"),
    )
    assert {(one.knobs["replicas"], one.knobs["threads"]) for one in grid.candidates} == {(1, 1), (1, 2), (2, 1)}
    for candidate in grid.candidates:
        text = render_config(tuning, candidate.knobs)
        (tmp_path / "candidate.yaml").write_text(text)
        model = load_config(tmp_path / "candidate.yaml")["applications"][1]
        assert model["deployments"][0]["num_replicas"] == candidate.knobs["replicas"]
        assert {
            name: model["args"][name] for name in ("threads", "max_batch", "engine")
        }.items() <= candidate.knobs.items()
        assert render_config(replace(tuning, base_text=text), base_values(tuning)) == tuning.base_text


def test_the_shipped_search_tries_everything_on_the_reference_machine() -> None:
    search = Search(replace(load_tuning(SHIPPED), cores=2), Path("nowhere"), print)
    assert search.tried == search.grid.candidates


def test_what_was_not_valid_counts_as_measured_the_second_time(tmp_path: Path) -> None:
    """All rounds are there already, so nothing is measured; what they took leaves no time for a final."""
    told: list[str] = []
    search = Search(load_tuning(write_tune_file(tmp_path, minutes=14, overhead_s=20)), tmp_path / "out", told.append)
    with search.opened():
        plan = search._make_plan(1, search.tried, Round(4, 1, 60))

    def change(made: MadeCell, invalid: str = "") -> None:
        replicas = made.record.replicas_asked
        assert replicas
        made.record.ended_unix_s = made.record.began_unix_s + 150
        made.record.replicas_found = replicas
        processes = 0 if made.record.cell.target == invalid else replicas
        made.resources = [
            replace(row, processes=processes) if row.role == "classifier" else row for row in made.resources
        ]

    write_made_run(tmp_path / "out" / "round-1", plan, lambda made: change(made, "c03"))
    again = plan.model_copy(update={"targets": [target for target in plan.targets if target.name == "c03"]})
    write_made_run(tmp_path / "out" / "round-1-again", again, change)
    search.run(after_round=lambda: None)
    assert [search._may_begin(Cell(target="c01", users=25, repetition=number), 60) for number in (1, 2)] == [
        True,
        False,
    ]
    result = make_result(search, over=True)
    (c03,) = [one for one in result.candidates if one.name == "c03"]
    assert (c03.state, c03.repetitions, c03.reasons) in [("winner", 1, []), ("finalist", 1, [])]
    assert result.rounds[0].took_s == 5 * 150
    assert "the time is up; the result is based on the rounds so far" in told
    assert result.winner
    assert any("1 valid repetition(s) instead of 3" in note for note in result.notes)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    show_result(result, console)
    assert isinstance(console.file, io.StringIO)
    words = ["c03", "old", *result.recommendation.split()]
    assert [word for word in words if word not in console.file.getvalue()] == []
    numbers = set(number_keys(result.model_dump(mode="json", exclude={"machine"})))
    assert {key for key in numbers if not key.endswith(tuple(TUNE_UNITS))} == set()


def test_a_candidate_with_too_few_answers_is_told_how_many_it_takes_and_not_measured_again(tmp_path: Path) -> None:
    """The round is there already, so nothing is measured; a candidate measured again would have a folder of its own."""
    search = Search(
        load_tuning(write_tune_file(tmp_path, objective="minimise predict.p99_ms")), tmp_path / "out", print
    )
    with search.opened():
        plan = search._make_plan(1, search.tried, Round(4, 1, 60))

    def change(made: MadeCell) -> None:
        made.record.replicas_found = replicas = made.record.replicas_asked or 0
        made.resources = [
            replace(row, processes=replicas) if row.role == "classifier" else row for row in made.resources
        ]

    write_made_run(tmp_path / "out" / "round-1", plan, change)
    search.run(after_round=lambda: None)
    assert not (tmp_path / "out" / "round-1-again").exists()
    result = make_result(search, over=True)
    for one in result.candidates:
        point = search.rounds[-1].measured[one.name].point
        (predict,) = [part.steady for part in point.endpoints if part.endpoint == "predict"]
        assert 0 < predict.requests < 299
        few = f"too few samples: only {predict.requests} right answers of predict, and predict p99 needs 299"
        assert (one.state, one.reasons) == ("invalid", [f"{few}; make duration_s of the plan longer"])
    assert result.recommendation == "No candidate gave a valid measurement; the reasons are above."
    console = Console(file=io.StringIO(), width=200)
    show_result(result, console)
    assert isinstance(console.file, io.StringIO)
    assert "INVALID c01 (workers=1 engine=old): too few samples" in console.file.getvalue()


def number_keys(part: object, key: str = "") -> Iterator[str]:
    """Yield the key of each number; in a mapping with a unit of its own, and in a list, that of the whole."""
    if isinstance(part, dict):
        for name, value in part.items():
            yield from number_keys(value, key if key in ("knobs", "values", "endpoint_p95_ms") else name)
    elif isinstance(part, list):
        for value in part:
            yield from number_keys(value, key)
    elif isinstance(part, int | float) and not isinstance(part, bool):
        yield key


def measured_run(
    folder: Path,
    slower: dict[str, float] | None = None,
    repetitions: int = 3,
    valid: int | None = None,
    **changes: Any,
) -> tuple[list[Measured], Tuning]:
    """Return what made-up cells of the four candidates say; `slower` multiplies the latencies of some.

    Of the repetitions, only the first `valid` do not fail.
    """
    tuning = load_tuning(write_tune_file(folder, **changes))
    candidates = make_grid(tuning).candidates
    targets = [made_target(one.name, 1) for one in candidates]
    plan = made_plan(targets=targets, users=[25], repetitions=repetitions, baseline=None)

    def change(made: MadeCell) -> None:
        factor = (slower or {}).get(made.record.cell.target, 1)
        made.requests = [replace(row, latency_ms=factor * row.latency_ms) for row in made.requests]
        if valid is not None and made.record.cell.repetition > valid:
            fail("target_failed")(made)

    run = RunFolder(write_made_run(folder / "run", plan, change))
    return list(collect(summarize(run), tuning.file, candidates, 1, run).values()), tuning


def test_equal_candidates_are_called_equal_and_the_first_value_is_recommended(tmp_path: Path) -> None:
    measured, tuning = measured_run(tmp_path, objective="minimise predict.median_ms")
    advice = recommend(measured, [one.candidate for one in measured], tuning)
    assert advice.winner
    assert advice.winner.candidate.knobs["workers"] == 1
    assert "The choice of workers makes no difference here" in advice.words
    assert {verdict.outcome for verdict in advice.verdicts} == {"tie"}
    assert "Undecided" not in advice.words
    assert advice.notes == []


def test_a_clear_winner_is_recommended_with_its_figures(tmp_path: Path) -> None:
    measured, tuning = measured_run(tmp_path, {"c01": 2, "c02": 2, "c03": 2})
    assert rank(measured, tuning.file)[0].candidate.name == "c04"
    advice = recommend(measured, [one.candidate for one in measured], tuning)
    assert advice.winner
    assert advice.winner.candidate.name == "c04"
    assert re.search(
        r"^Run workers=2 engine=new: predict p95 \d+ ms with 25 users against \d+ ms with workers=1", advice.words
    )


@pytest.mark.parametrize(("repetitions", "runs"), [(1, "1 valid repetition does"), (2, "2 valid repetitions do")])
@pytest.mark.parametrize("knob", ["workers", None])
def test_with_few_repetitions_even_a_clear_winner_is_undecided(
    tmp_path: Path, repetitions: int, runs: str, knob: str | None
) -> None:
    measured, tuning = measured_run(
        tmp_path,
        {"c01": 5, "c02": 5, "c03": 5},
        repetitions,
        replicas_knob=knob,
        objective="minimise predict.median_ms",
    )
    advice = recommend(measured, [one.candidate for one in measured], tuning)
    assert {verdict.outcome for verdict in advice.verdicts} == {"winner"}
    assert advice.words.startswith(
        f"Undecided: {runs} not show how much two runs of one candidate differ. 3 repetitions"
    )
    # Two are compared, of which each lacks so many cells of 60 s, and 40 s for starts and stops.
    minutes = {1: 7, 2: 4}[repetitions]
    assert f"about {minutes} minutes more (`--minutes {60 + minutes}`)" in advice.words
    assert "Run workers=2 engine=new: predict median" in advice.words
    assert f"based on {repetitions} valid repetition(s)" in advice.notes[0]


@pytest.mark.parametrize(
    ("is_measured", "remedy", "noted"),
    [
        (False, "(`--minutes 64`)", "increase --minutes"),
        (True, "(`--minutes 64` and another `--out`)", "measure again with another --out"),
    ],
)
def test_more_minutes_are_advised_only_for_repetitions_that_they_measure(
    tmp_path: Path, *, is_measured: bool, remedy: str, noted: str
) -> None:
    """The third repetition of each failed, or there was no time for it; only the latter is measured on a resume."""
    measured, tuning = measured_run(tmp_path, {"c01": 5, "c02": 5, "c03": 5}, valid=2)
    candidates, run = [one.candidate for one in measured], measured[0].folder
    if not is_measured:
        for cell in run.read_record().order:
            if cell.repetition > 2:
                (run.cell_path(cell) / "cell.json").unlink()
        measured = list(collect(summarize(run), tuning.file, candidates, 1, run).values())
    advice = recommend(measured, candidates, tuning)
    assert f"3 repetitions of each would tell more: about 4 minutes more {remedy}." in advice.words
    assert advice.notes[0].endswith(f"chance may have decided it; {noted}.")


def test_what_failed_is_measured_again_where_others_are_missing(tmp_path: Path) -> None:
    measured, tuning = measured_run(tmp_path, {"c01": 5, "c02": 5, "c03": 5}, valid=2)
    run, candidates = measured[0].folder, [one.candidate for one in measured]
    missing = next(cell for cell in run.read_record().order if cell.target == "c03" and cell.repetition > 2)
    (run.cell_path(missing) / "cell.json").unlink()
    measured = list(collect(summarize(run), tuning.file, candidates, 1, run).values())
    advice = recommend(measured, candidates, tuning)
    assert "more (`--minutes 64`)." in advice.words


def test_figures_that_tell_nobody_apart_are_undecided_and_the_advice_says_what_it_rests_on(tmp_path: Path) -> None:
    measured, tuning = measured_run(tmp_path, {"c03": 1.12, "c04": 1.12})
    advice = recommend(measured, [one.candidate for one in measured], tuning)
    assert {verdict.outcome for verdict in advice.verdicts} == {"not enough data"}
    assert advice.words.startswith(
        f"Undecided: {advice.verdicts[0].because}. 6 repetitions of each would tell more: about "
    )
    assert "`repetitions: 6` in the tune file" in advice.words
    assert "Run workers=1 engine=old because it is the first of these values in the tune file" in advice.words
    assert "of memory against" in advice.words


def test_what_misses_a_limit_is_never_chosen_however_good_it_is(tmp_path: Path) -> None:
    slower = {"c01": 2.0, "c02": 2.0}
    measured, tuning = measured_run(
        tmp_path, slower, objective="minimise lookup.p95_ms", limits=["predict.max_ms >= 300"]
    )
    advice = recommend(measured, [one.candidate for one in measured], tuning)
    assert {one.candidate.name: one.meets_limits for one in measured} == {
        "c01": True, "c02": True, "c03": False, "c04": False,
    }  # fmt: skip
    assert advice.winner
    assert advice.winner.candidate.knobs["workers"] == 1
    assert "With workers=2 a limit is missed: predict.max_ms >= 300" in advice.words


def test_when_none_meets_the_limits_the_nearest_is_named(tmp_path: Path) -> None:
    slower = {"c01": 3.0, "c02": 3.0, "c03": 3.0}
    measured, tuning = measured_run(tmp_path, slower, limits=["predict.p95_ms <= 1"])
    advice = recommend(measured, [one.candidate for one in measured], tuning)
    assert advice.winner is None
    assert advice.words.startswith("No candidate meets the limits with 25 users. The nearest is workers=2 engine=new")


def test_throughput_that_think_time_limits_is_said_to_tell_nothing(tmp_path: Path) -> None:
    measured, tuning = measured_run(tmp_path, objective="maximise rps")
    (note,) = recommend(measured, [one.candidate for one in measured], tuning).notes
    assert "cannot ask for more than 8.3 requests/s" in note
