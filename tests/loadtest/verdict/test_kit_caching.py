"""A target that answers from a cache of its own: the report says so, and figures of a cache pass for nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.audit.audit import audit_file
from loadtest.audit.locust_stats import RunFacts
from loadtest.figures.caching import name_cache
from loadtest.figures.figures import Figures
from loadtest.page.text import render_markdown
from loadtest.plan.plan import Plan
from loadtest.rows.run_folder import RunFolder
from loadtest.verdict.summary import summarize
from tests.made_run import MadeCell, made_plan, made_target, write_made_run

HITS = {"name": "lookups_total", "by": "result", "values": ["hit", "shared"]}


def plan_with(pictures: str | None, *, cached: bool) -> Plan:
    workload: dict[str, Any] = made_plan().model_dump(mode="json")["workload"]
    workload["options"] = {} if pictures is None else {"pictures": pictures}
    target = {**made_target("one_replica", 1), "cached": cached}
    return made_plan(targets=[target], users=[25], workload=workload, metrics={"hits": HITS}, baseline=None)


def exported(**counts: int) -> str:
    return "".join(f'lookups_total{{result="{result}"}} {count}\n' for result, count in counts.items())


def measured(folder: Path, plan: Plan, cache: object) -> Figures:
    """Return the figures of a run whose target says `cache` of its cache."""

    def change(made: MadeCell) -> None:
        made.record.about["/model/"]["cache"] = cache
        made.before = exported(hit=10, miss=10)
        made.after = exported(hit=90, miss=20, shared=10)

    return summarize(RunFolder(write_made_run(folder, plan, change)))


def test_a_cache_that_the_plan_measures_is_told_with_its_share_of_hits(tmp_path: Path) -> None:
    figures = measured(tmp_path, plan_with("repeated", cached=True), "redis")
    assert figures.all_valid
    assert figures.cells[0].hit_percent == 90
    report = render_markdown(figures)
    assert "**Prediction cache on (redis):** 1 replica: this plan measures it" in report
    assert "from the cache: 90 % at 25 users" in report


def test_repeated_pictures_and_a_cache_that_the_plan_does_not_expect_are_no_measurement(tmp_path: Path) -> None:
    figures = measured(tmp_path, plan_with("repeated", cached=False), "redis")
    assert not figures.all_valid
    assert ["the figures are those of the cache" in reason for reason in figures.cells[0].reasons] == [True]
    assert "Prediction cache on (redis)" in render_markdown(figures)


def test_a_cache_that_the_plan_expects_and_that_is_off_is_no_measurement(tmp_path: Path) -> None:
    figures = measured(tmp_path, plan_with("repeated", cached=True), "off")
    assert ["cache is off" in reason for reason in figures.cells[0].reasons] == [True]
    assert "Prediction cache on" not in render_markdown(figures)


@pytest.mark.parametrize(("pictures", "words"), [("distinct", "had no answer"), (None, "not known")])
def test_a_cache_beside_pictures_that_do_not_repeat_is_noted(tmp_path: Path, pictures: str | None, words: str) -> None:
    figures = measured(tmp_path, plan_with(pictures, cached=False), "memory")
    assert figures.all_valid
    assert [words in note for note in figures.cells[0].notes] == [True]
    assert "Prediction cache on (memory)" in render_markdown(figures)


@pytest.mark.parametrize("cache", ["off", None, False, "none"])
def test_a_cache_that_is_off_is_not_mentioned(tmp_path: Path, cache: object) -> None:
    figures = measured(tmp_path, plan_with("repeated", cached=False), cache)
    assert figures.all_valid
    assert figures.cells[0].notes == []
    assert "Prediction cache" not in render_markdown(figures)


def test_the_audit_finds_a_valid_cell_whose_figures_are_those_of_a_cache(tmp_path: Path) -> None:
    figures = measured(tmp_path / "run", plan_with("repeated", cached=False), "off").model_dump(mode="json")
    assert audited(tmp_path, figures) == []
    figures["targets"][0]["cache"] = "redis"
    [instead] = audited(tmp_path, figures)
    assert "those of the cache" in instead
    figures["targets"][0]["cached"] = True
    assert audited(tmp_path, figures) == []


def audited(folder: Path, figures: dict[str, Any]) -> list[str]:
    path = folder / "report.json"
    path.write_text(json.dumps(figures))
    return [finding.instead for finding in audit_file(path, RunFacts()).findings]


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ({"/model/": {"name": "x", "cache": "redis"}}, "redis"),
        ({"/": {"parts": [{"cache": "off"}]}}, "off"),
        ({"/": {"cache": False}}, "off"),
        ({"/": {"cache": True}}, "True"),
        ({"/": {"cache": {"size": 3}}}, None),
        ({"/": {"name": "cache"}}, None),
        ([], None),
    ],
)
def test_a_target_is_taken_at_its_word(about: object, name: str | None) -> None:
    assert name_cache(about) == name
