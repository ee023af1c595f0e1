"""YAML in the kit: a value is what it looks like, a key stands once, in every kind of file that the kit reads."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtest.audit.audit import audit_file
from loadtest.audit.locust_stats import RunFacts
from loadtest.audit.published import read_published
from loadtest.commands.tune import add_command, read_overrides
from loadtest.errors import BadInputError
from loadtest.faults.fault_plan import load_fault_plan, load_soak_plan
from loadtest.figures.baseline import read_baseline
from loadtest.plan.plan import load_plan
from loadtest.plan.yaml_file import load_yaml, read_yaml_file
from loadtest.tune.config_path import read_value, replace_values
from loadtest.tune.tune_file import load_tuning
from tests.service import CONFIGS, ROOT

STRESS = CONFIGS / "stress"
AUDITED = ROOT / "tests/audits/published_report.yaml"
SHIPPED = [*sorted(STRESS.rglob("*.yaml")), AUDITED]
READERS: dict[str, tuple[Path, Callable[[Path], object]]] = {
    "plan": (STRESS / "quick.yaml", load_plan),
    "tune file": (STRESS / "tune.yaml", load_tuning),
    "fault plan": (STRESS / "faults.yaml", load_fault_plan),
    "soak plan": (STRESS / "soak.yaml", load_soak_plan),
    "baseline": (STRESS / "baselines/published_2026.yaml", lambda path: read_baseline(path, [])),
    "table to audit": (AUDITED, read_published),
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0150", 150), ("007", 7), ("-012", -12), ("0o17", 15), ("0x1F", 31), ("0b11", "0b11"),
        ("1_000", "1_000"), ("1:30", "1:30"), ("12:30:45", "12:30:45"), ("190:20:30.15", "190:20:30.15"),
        ("yes", "yes"), ("No", "No"), ("on", "on"), ("OFF", "OFF"), ("y", "y"), ("true", True), ("False", False),
        ("2026-01-02", "2026-01-02"), ("2026-01-02 03:04:05", "2026-01-02 03:04:05"), ("=", "="),
        ("1e3", 1000.0), ("1.5e-3", 0.0015), (".5", 0.5), ("5.", 5.0), ("+7", 7), ("~", None), ("", None),
        (".inf", float("inf")), ("-.INF", float("-inf")), ('"0150"', "0150"), ("'no'", "no"),
    ],
)  # fmt: skip
def test_a_value_is_what_it_looks_like(text: str, value: object) -> None:
    found = load_yaml(f"key: {text}")["key"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_shipped_means_the_same_to_every_reader(path: Path) -> None:
    assert read_yaml_file(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", READERS)
def test_a_key_that_stands_twice_is_refused_with_both_lines(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    path, read = READERS[kind]
    read(path)
    text = path.read_text(encoding="utf-8")
    first = next(
        number
        for number, line in enumerate(text.splitlines(), 1)
        if line.startswith("title:" if kind != "tune file" else "users:")
    )
    again = tmp_path / path.name
    again.write_text(f"{text.rstrip()}\n{text.splitlines()[first - 1]}\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=f"{path.name}: is not YAML: line .* twice, first in line {first}$"):
        read(again)


@pytest.mark.parametrize(
    "text",
    ["a: {b: 1, c: 2, b: 3}", "- {b: 1, b: 1}", 'b: 1\n"b": 2', "b: 1\n? b\n: 2", "a:\n  b: []\n  c: 1\n  b: {}"],
)
def test_a_key_is_found_twice_at_any_depth_and_in_any_style(text: str) -> None:
    with pytest.raises(ValueError, match=r"line \d+, column \d+: the key 'b' appears twice, first in line \d+"):
        load_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        "1: a\n01: b",
        "true: a\nTrue: b",
        "1: a\n0x1: b",
        "1: a\n1.0: b",
        "~: a\nnull: b",
        "{1: a, true: b}",
        "a: {1: b, 01: c}",
    ],
)
def test_keys_that_mean_the_same_are_one_key(text: str) -> None:
    with pytest.raises(ValueError, match=r"line \d+, column \d+: the key '.*' appears twice, first in line \d+"):
        load_yaml(text)


def test_keys_that_look_alike_are_two() -> None:
    assert load_yaml("1: a\n'1': b\n'01': c\nyes: d\n'true': e") == {
        1: "a",
        "1": "b",
        "01": "c",
        "yes": "d",
        "true": "e",
    }


def test_a_merged_mapping_may_be_added_to() -> None:
    assert load_yaml("a: &a {k: 1, l: 2}\nb: {<<: *a, k: 3}") == {"a": {"k": 1, "l": 2}, "b": {"k": 3, "l": 2}}


@pytest.mark.parametrize(
    "text",
    ["a: [", "\tb: 1", "!!python/object/apply:os.system [x]", "!!int x", "!!bool maybe", "[" * 1500, "a: *b", "\0"],
)
def test_what_is_no_yaml_is_refused_in_a_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match=r"plan\.yaml: is not YAML: ") as refused:
        load_plan(path)
    assert "\n" not in str(refused.value)


def test_a_leading_nought_makes_no_number_octal_in_a_table_to_audit(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text("title: t\nresults:\n- {instances: 1, users: 010, requests: 0150, rps: 01.50}\n", encoding="utf-8")
    (row,) = read_published(path).rows
    assert (row.users, row.all.requests) == (10, 150)
    assert row.all.rps is not None
    assert (row.all.rps.low, row.all.rps.value) == (1.495, 1.5)


def test_an_honest_row_with_a_leading_nought_is_not_accused(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    text = "title: t\ntest: {duration_s: 100}\nresults:\n- {instances: 1, users: 5, requests: %s, rps: 1.5}\n"
    for requests in ("150", "0150", "1_50"):
        path.write_text(text % requests, encoding="utf-8")
        assert audit_file(path, RunFacts()).findings == []


@pytest.mark.parametrize(
    ("key", "value"), [("duration_s", "1:30"), ("users", "[0o10, 1:30]"), ("users", "[no]"), ("seed", "2026-01-02")]
)
def test_a_time_a_date_or_a_word_is_no_number_in_a_plan(key: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    lines = (STRESS / "quick.yaml").read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(f"{key}: {value}" if line.startswith(f"{key}:") else line for line in lines))
    with pytest.raises(BadInputError, match=rf"plan.yaml: {key}.*valid integer"):
        load_plan(path)


def test_words_stay_words_and_a_switch_understands_them(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    text = (STRESS / "quick.yaml").read_text(encoding="utf-8")
    text = text.replace("anywhere: true", "anywhere: yes").replace(
        "pictures: distinct", "pictures: off, since: 2026-01-02"
    )
    path.write_text(text.replace("label: 1 replica × 2 threads", "label: on"), encoding="utf-8")
    plan = load_plan(path)
    assert plan.workload.options["pictures"] == "off"
    assert plan.workload.options["since"] == "2026-01-02"
    assert plan.targets[0].label == "on"
    assert [role.name for role in plan.roles if role.anywhere] == ["database", "redis"]


def test_values_of_knobs_are_read_the_same_way_and_written_so_that_any_reader_finds_them() -> None:
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers())
    values: list[Any] = read_overrides(parser.parse_args(["tune", "--vary", "store=off,0150,1:30,1e3"]))["vary"][
        "store"
    ]
    assert values == ["off", 150, "1:30", 1000.0]
    for value in values:
        text = replace_values("cache:\n  store: redis  # or off\n", {"cache.store": value})
        assert read_value(text, "cache.store") == value
        assert yaml.safe_load(text) == {"cache": {"store": value}}


def test_a_knob_is_given_once() -> None:
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers())
    arguments = parser.parse_args(["tune", "--vary", "replicas=1", "--vary", "threads=1", "--vary", "replicas=2"])
    with pytest.raises(BadInputError, match="--vary: replicas is given twice"):
        read_overrides(arguments)
