"""The report as its readers get it: what stands in report.md, report.json and report.html, and the same bytes twice."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import BadInputError
from loadtest.figures.figures import UNITS, CellFigures, Figures, PointFigures, TargetFacts, Traffic, show_rps
from loadtest.measure.runner import run_plan
from loadtest.page.overview import print_overview
from loadtest.page.report import write_report
from loadtest.page.text import render_markdown
from loadtest.plan.plan import Plan
from loadtest.rows.run_folder import RunFolder
from loadtest.verdict.choice import Data, decides
from loadtest.verdict.findings import conclude
from loadtest.verdict.summary import summarize
from tests.made_run import MadeCell, made_plan, made_target, write_made_run

ROOT = Path(__file__).parents[3]
PUBLISHED_SECTIONS = [
    "System Specs", "What We Tested", "Results", "Key Takeaways", "Recommendations", "Bottom Line",
]  # fmt: skip
OUR_SECTIONS = [
    "Comparison at each number of users",
    "What limits each level",
    "Where the time goes",
    "CPU, memory and threads",
    "What the service itself counted",
    "Objectives",
    "Validity",
    "How these figures are made",
]
SECTIONS = [*PUBLISHED_SECTIONS[:3], *OUR_SECTIONS, *PUBLISHED_SECTIONS[3:]]
MEANING_OF_ITS_OWN = {"about", "options", "values", "value", "samples"}
"""Keys whose numbers have the unit that UNITS gives for the key itself."""


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    return summarize(RunFolder(write_made_run(tmp_path_factory.mktemp("run"))))


def markdown_of(folder: Path, plan: Plan, change: Any = None) -> str:
    return render_markdown(summarize(RunFolder(write_made_run(folder, plan, change))))


def sections(markdown: str) -> list[str]:
    return re.findall(r"^## (.*)$", markdown, re.MULTILINE)


def section(markdown: str, title: str) -> str:
    return markdown.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows, without headers' rules."""
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_report_has_the_layout_of_the_published_one(figures: Figures) -> None:
    markdown = render_markdown(figures, ["throughput", "latency_predict"])
    assert sections(markdown) == SECTIONS
    assert markdown.splitlines()[0] == "# ResNet50 service, 1 vs 2 classifier replicas"
    assert section(markdown, "Bottom Line").strip() == figures.bottom_line


def box(markdown: str) -> list[str]:
    """Return the lines of the box, which is all that stands between the title and the first section."""
    title, *lines = markdown.split("\n## ", maxsplit=1)[0].strip().splitlines()
    assert title.startswith("# ")
    assert lines[0] == ""
    assert all(line.startswith(">") for line in lines[1:])
    return [line.removeprefix(">").strip() for line in lines[1:]]


def test_the_box_has_the_recommendation_its_evidence_and_what_limits_each_level(figures: Figures) -> None:
    lines = box(render_markdown(figures))
    assert lines[0] == "**Run 2 replicas:** it meets every objective up to 100 users, 1 replica up to 50 users."
    assert figures.recommendations[0] == lines[0].replace("**", "")
    rows = {row[0]: row[1:] for row in table_rows("\n".join(lines))}
    assert rows["at 100 users"] == ["1 replica", "2 replicas"]
    points = [point.steady for point in figures.points if point.users == 100]
    assert rows["requests/s"] == [show_rps(steady.rps) for steady in points if steady]
    limits = {row: cells for row, cells in rows.items() if row.startswith("limit, ")}
    assert next(iter(limits)).startswith("limit, 10 ")
    assert [*limits][-1].endswith("100 users")
    assert all(cell in {"think time", "CPU of classifier", "unknown"} for cells in limits.values() for cell in cells)
    assert re.fullmatch(r"8 cells, all VALID; objectives missed; measured on [\d-]+ \(UTC\)\.", lines[-1])


def test_the_box_says_undecided_and_what_decides_it() -> None:
    figures = Figures.model_validate_json((ROOT / "docs/reports/published/report.json").read_text())
    lines = box(render_markdown(figures))
    assert lines[0].startswith("**Undecided:** ")
    assert figures.bottom_line.startswith(f"{lines[0].replace('**', '')[:-1]}; ")
    assert [lines[2], lines[4]] == figures.recommendations[:2]
    assert lines[2].startswith("To decide, measure again: 5 repetitions of ")


def test_our_figures_stand_beside_the_published_ones(figures: Figures) -> None:
    rows = table_rows(section(render_markdown(figures), "Results"))
    (point,) = [one for one in figures.points if (one.target, one.users) == ("two_replicas", 100)]
    assert point.steady
    (row,) = [row for row in rows if row[0] == "100" and row[-3:] == ["22", "1,500", "2.4"]]
    assert row[1:9] == ["1,472", "0", "0 to 0.26", "12.1", "324", "540", "32.7", "33.3"]
    assert (point.steady.requests, point.steady.failures) == (1472, 0)
    assert ["100", "all", "1,785", "34", "1.9"] in [row[:5] for row in rows]


def test_published_figures_at_other_numbers_of_users_take_no_columns(tmp_path: Path) -> None:
    assert "published median" not in markdown_of(tmp_path, made_plan(users=[20]))


def test_only_pictures_that_were_drawn_are_linked(figures: Figures) -> None:
    markdown = render_markdown(figures, ["throughput", "latency_predict"])
    assert re.findall(r"!\[(.*)\]\((.*)\)", markdown) == [
        ("Throughput, by number of users", "plots/throughput.svg"),
        ("Latency of predict, by number of users", "plots/latency_predict.svg"),
    ]
    assert "![" not in render_markdown(figures)


def test_pictures_of_cpu_and_stages_stand_with_their_tables(figures: Figures) -> None:
    markdown = render_markdown(figures, ["throughput", "published", "cpu", "stages"])
    assert "plots/cpu.svg" in section(markdown, "CPU, memory and threads")
    assert "plots/stages.svg" in section(markdown, "Where the time goes")
    assert "plots/published.svg" in section(markdown, "Results")


def test_where_nothing_failed_a_sentence_says_so(tmp_path: Path, figures: Figures) -> None:
    def answer_all(made: MadeCell) -> None:
        made.requests = [row for row in made.requests if not row.error]

    assert any(point.steady.failures for point in figures.points if point.steady)
    assert "No request failed" not in render_markdown(figures)
    calm = section(markdown_of(tmp_path, made_plan(users=[10]), answer_all), "Results")
    assert re.search(r"^No request failed: 0 of [1-9][\d,]* in the steady windows\.$", calm, re.MULTILINE)


def test_tables_are_whole(figures: Figures) -> None:
    for block in re.findall(r"(?:^\|.*\n)+", render_markdown(figures), re.MULTILINE):
        widths = {(len(line), len(re.findall(r"(?<!\\)\|", line))) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_random_weights_are_told(tmp_path: Path, figures: Figures) -> None:
    def use_trained(made: MadeCell) -> None:
        made.record.about["/model/"]["weights"] = "imagenet"

    assert "> **Random weights:** 1 replica and 2 replicas served a network with random" in render_markdown(figures)
    assert "Random weights" not in markdown_of(tmp_path, made_plan(), use_trained)


def evaluation(folder: Path, **changes: object) -> Path:
    """Write what `evaluate --format json` prints, as far as the kit reads it."""
    model = {"name": "resnet50", "engine": "openvino", "precision": "float32", "weights": "w.h5", "fingerprint": "a1"}
    share = {"share": 0.95, "low": 0.9104, "high": 0.9726, "count": 190, "of": 200}
    known = {"kind": "accuracy", "date": "2026-01-14", "pictures": 200, "top1": share, "top5": None, "wrong": []}
    path = folder / "accuracy.json"
    path.write_text(json.dumps({**known, "model": model, **changes}))
    return path


@pytest.mark.parametrize(
    ("fingerprints", "told"),
    [
        (["a1", "a1"], "top-1 95.00 % (95 % interval 91.04–97.26 %); 200 labelled pictures, evaluated on 2026-01-14"),
        (["a1", "b2"], "it served another model (another fingerprint)"),
        ([None, None], "it tells no fingerprint of its model"),
    ],
    ids=["of the model", "of another model", "unknown"],
)
def test_an_evaluation_is_quoted_if_it_is_of_the_served_model(
    tmp_path: Path, fingerprints: list[str | None], told: str
) -> None:
    targets = [{**made_target("one_replica", 1), "evaluations": [str(evaluation(tmp_path))]}]

    def tell(made: MadeCell) -> None:
        if fingerprint := fingerprints[made.record.cell.repetition - 1]:
            made.record.about["/model/"]["fingerprint"] = fingerprint

    tested = section(
        markdown_of(tmp_path / "run", made_plan(targets=targets, users=[10], repetitions=2), tell), "What We Tested"
    )
    [line] = [line for line in tested.splitlines() if line.startswith("> **Accuracy of ")]
    assert told in line
    assert ("95.00 %" in tested) == (fingerprints[1] == "a1")


def test_without_an_evaluation_nothing_is_said(figures: Figures) -> None:
    assert "Accuracy" not in render_markdown(figures)


def test_a_file_that_is_no_evaluation_ends_a_run_before_it_begins(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "missing.json", r"evaluations: .*missing\.json is not a file"),
        (evaluation(tmp_path, kind="agreement"), r"accuracy\.json: is not what .* prints .* \(wrong: kind\)"),
    ):
        plan = made_plan(targets=[{**made_target("one_replica", 1), "evaluations": [str(path)]}], baseline=None)
        with pytest.raises(BadInputError, match=words):
            run_plan(plan, tmp_path / "plan.yaml", RunFolder(tmp_path / f"run of {path.name}"))


@pytest.mark.parametrize(
    ("pictures", "told"), [("distinct", "so no cache of answers can help"), ("repeated", "so a cache may answer")]
)
def test_it_is_told_whether_a_cache_may_answer(tmp_path: Path, pictures: str, told: str) -> None:
    workload = {**made_plan().workload.model_dump(mode="json"), "options": {"pictures": pictures}}
    assert told in markdown_of(tmp_path, made_plan(workload=workload, users=[10]))


def test_invalid_cells_are_printed_and_in_no_table_of_results(tmp_path: Path) -> None:
    def spoil(made: MadeCell) -> None:
        if made.record.cell.users == 25:
            made.resources = [replace(row, cpu_percent=99) for row in made.resources]

    markdown = markdown_of(tmp_path, made_plan(), spoil)
    validity = table_rows(section(markdown, "Validity"))
    assert [row[:2] for row in validity if row[1] == "**INVALID**"] == [
        ["1 replica, 25 users", "**INVALID**"],
        ["2 replicas, 25 users", "**INVALID**"],
    ]
    assert [row[0] for row in validity].count("1 replica, 25 users") == 2
    results = table_rows(section(markdown, "Results"))
    assert ["25 (no valid cell)", "—", "—"] in [row[:3] for row in results]
    assert "8 cells, 2 INVALID" in markdown
    assert re.search(r"not enough data +\| no target has valid data", markdown)


def test_a_run_in_which_every_cell_failed_has_a_report(tmp_path: Path) -> None:
    def fail(made: MadeCell) -> None:
        made.record.status, made.record.reason = "failed", "exit code 3: <b>no</b> | space left"

    markdown = markdown_of(tmp_path, made_plan(), fail)
    assert "> **No cell is valid:** this run says nothing about its targets." in markdown
    assert "exit code 3: \\<b>no\\</b> \\| space left" in section(markdown, "Validity")
    assert "Where the time goes" not in sections(markdown)


def test_one_target_without_limits_metrics_or_baseline_has_a_report(tmp_path: Path) -> None:
    plan = made_plan(
        targets=[made_target("bare", None)], users=[10], limits=[], metrics=None, baseline=None, roles=[], packages=[]
    )
    markdown = markdown_of(tmp_path, plan)
    left_out = {"Comparison at each number of users", "What the service itself counted", "Objectives"}
    assert sections(markdown) == [title for title in SECTIONS if title not in left_out]
    assert "published" not in markdown


def test_users_at_a_rate_have_no_think_time_limit(tmp_path: Path) -> None:
    workload = {**made_plan().workload.model_dump(mode="json"), "wait_s": None, "rate_per_user_rps": 0.5}
    markdown = markdown_of(tmp_path, made_plan(workload=workload, users=[10]))
    assert "| rate of a user            | 0.5 requests per second" in markdown
    assert "think-time" not in markdown


def test_repetitions_are_told_apart(tmp_path: Path) -> None:
    markdown = markdown_of(tmp_path, made_plan(users=[10], repetitions=2))
    assert "1 replica, 10 users, repetition 2" in markdown
    assert "10 (2×)" in markdown


def figures_of_a_plain_locust_csv() -> Figures:
    whole = Traffic(
        requests=100, failures=0, failures_percent=0, rps=5, median_ms=10, avg_ms=11, p95_ms=20, p99_ms=30, max_ms=40
    )
    lacks: dict[str, Any] = {"steady_window_s": None, "steady": None, "endpoints": [], "roles": []}
    cell = CellFigures(
        target="locust", users=10, repetition=1, valid=True, reasons=[], notes=["*no* machine"], whole_run_s=20,
        ready_after_s=None, replicas_asked=None, replicas_found=None, seed=None, whole_run=whole, counters=[],
        metrics_after_s=None, limits=[], **lacks,
    )  # fmt: skip
    point = PointFigures(target="locust", users=10, repetitions=1, think_time_limit_rps=None, whole_run=whole, **lacks)
    return conclude(
        Figures(
            title="A CSV", source="Locust CSV", machine=None, dates=[], test={}, endpoints=[], baseline=None,
            targets=[TargetFacts(name="locust", title="locust", replicas=None, about={})],
            points=[point], cells=[cell], comparisons=[], takeaways=[], recommendations=[], bottom_line="",
            all_valid=True, all_limits_met=True,
        )
    )  # fmt: skip


def test_figures_of_a_plain_locust_csv_have_a_report() -> None:
    markdown = render_markdown(figures_of_a_plain_locust_csv())
    told = "at 10 users it had 5.0 requests/s, 0 % failures (whole run) and a median of 10.0 ms."
    assert f"> **locust was measured:** {told}" in markdown
    assert f"locust was measured: {told}" in section(markdown, "Bottom Line")
    assert "The data does not say on what machine it was measured." in markdown
    assert "as Locust computed them" in markdown


# Files


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_run(tmp_path_factory.mktemp("run"), made_plan(users=[10, 100]))


@pytest.fixture(scope="module")
def written(run_folder: Path) -> dict[str, bytes]:
    """The files of a report by their paths in the run's folder; those are all that came into it."""
    before = {*run_folder.rglob("*")}
    paths = write_report(summarize(RunFolder(run_folder)), run_folder)
    assert {path for path in {*run_folder.rglob("*")} - before if path.is_file()} == set(paths)
    return {path.relative_to(run_folder).as_posix(): path.read_bytes() for path in paths}


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, run_folder: Path, written: dict[str, bytes]) -> None:
    reread = Figures.model_validate_json(written["report.json"])
    assert summarize(RunFolder(run_folder)) == reread
    again = write_report(reread, tmp_path)
    assert {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in again} == written


def test_the_report_names_no_folder_of_the_machine(run_folder: Path, written: dict[str, bytes]) -> None:
    for data in written.values():
        assert str(run_folder.parent) not in data.decode("utf-8")


def test_every_file_is_told_and_there(written: dict[str, bytes]) -> None:
    assert {
        "report.json", "report.md", "report.html", "plots/throughput.svg", "plots/latency_lookup.svg"
    } <= written.keys()  # fmt: skip
    linked = set(re.findall(r"\((plots/.*)\)", written["report.md"].decode("utf-8")))
    assert linked == {path for path in written if path.endswith(".svg")}


def test_pictures_of_an_earlier_report_go_and_those_of_others_stay(tmp_path: Path) -> None:
    stale, foreign = tmp_path / "plots" / "latency_gone.svg", tmp_path / "plots" / "holiday.svg"
    stale.parent.mkdir()
    stale.touch()
    foreign.touch()
    (tmp_path / "report.md").write_text("# Earlier\n\n![Latency](plots/latency_gone.svg)\n")
    write_report(figures_of_a_plain_locust_csv(), tmp_path)
    assert (stale.exists(), foreign.exists()) == (False, True)


def test_every_number_in_the_json_has_a_unit(tmp_path: Path) -> None:
    figures = summarize(RunFolder(write_made_run(tmp_path, made_plan(users=[10, 100], repetitions=2))))
    known = set(UNITS)
    numbers = set(number_keys(json.loads(json.dumps(figures.model_dump(mode="json")))))
    assert {"p95_ms", "rss_max_bytes", "increase", "ram_bytes", "wait_s", "values"} <= numbers
    assert {key for key in numbers if not any(key.endswith(end) for end in known)} == set()


def number_keys(value: object, key: str = "") -> Iterator[str]:
    """Yield the key of each number; in a mapping with a meaning of its own, and in a list, that of the whole."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from number_keys(part, key if key in MEANING_OF_ITS_OWN else name)
    elif isinstance(value, list):
        for part in value:
            yield from number_keys(part, key)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield key


def test_the_terminal_has_a_row_for_each_target_at_each_number_of_users(
    figures: Figures, capsys: pytest.CaptureFixture[str]
) -> None:
    print_overview(figures)
    printed = capsys.readouterr().out
    assert figures.title in printed
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if "│" in line]
    assert [(row[0], int(row[1])) for row in rows] == [
        (facts.title, users) for users in sorted({point.users for point in figures.points}) for facts in figures.targets
    ]
    for level in figures.comparisons:
        told = {row[0]: row[-2] for row in rows if int(row[1]) == level.users}
        names = {facts.name: facts.title for facts in figures.targets}
        expected = dict.fromkeys(told, level.verdict if level.winner is None else "")
        if level.winner is not None:
            expected[names[level.winner]] = "winner" if decides(Data(figures), level) else "ahead"
        assert told == expected
    assert {row[-1] for row in rows} <= {"think time", "CPU of classifier", "unknown"}


def test_the_terminal_shows_that_nothing_was_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def lose_the_replicas(made: MadeCell) -> None:
        made.record.replicas_found = 7

    print_overview(summarize(RunFolder(write_made_run(tmp_path, change=lose_the_replicas))))
    assert "0 of 1" in capsys.readouterr().out
