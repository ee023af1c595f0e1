"""The pictures of a report: what they show, that they are the same bytes each time, and that they load nothing."""

import hashlib
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from loadtest.reporting import plots
from loadtest.reporting.figures import EndpointFigures, Figures, PointFigures, RoleFigures, Stage, TargetFacts, Traffic
from loadtest.reporting.plots import draw_plots
from loadtest.reporting.summary import summarize
from loadtest.run_folder import RunFolder
from tests.made_run import write_made_run

SVG = "{http://www.w3.org/2000/svg}"
DRAW_S = 120


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """Two targets at four numbers of users, with published figures."""
    return summarize(RunFolder(write_made_run(tmp_path_factory.mktemp("run") / "made")))


@pytest.fixture(scope="module")
def drawn(figures: Figures) -> dict[str, str]:
    return draw_plots(figures)


def test_the_pictures_come_in_reading_order(drawn: dict[str, str]) -> None:
    assert list(drawn) == ["throughput", "latency_predict", "latency_lookup", "failures", "cpu", "stages"]


def test_a_picture_scales_and_has_a_name_for_a_screen_reader(drawn: dict[str, str]) -> None:
    for svg in drawn.values():
        root = ET.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        assert root.get("role") == "img"
        assert re.fullmatch(r"0 0 520 \d+(\.\d+)?", root.get("viewBox", ""))
        assert not {"width", "height", "id"} & root.attrib.keys()
        assert root[0].tag == f"{SVG}title"
        assert root[0].text


def test_text_is_text_and_begins_within_the_picture(drawn: dict[str, str]) -> None:
    for svg in drawn.values():
        root = ET.fromstring(svg)
        width, height = (float(number) for number in root.get("viewBox", "").split()[2:])
        texts = list(root.iter(f"{SVG}text"))
        assert texts[-1].text
        for text in texts:
            assert 0 <= float(text.get("x", "nan")) <= width
            assert 0 <= float(text.get("y", "nan")) <= height


def test_a_picture_refers_only_to_itself(drawn: dict[str, str]) -> None:
    for name, svg in drawn.items():
        everything = svg.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "http" not in everything
        assert "<!" not in everything
        ids = re.findall(r'\bid="([^"]+)"', svg)
        referred = {*re.findall(r"url\(#([^)]+)\)", svg), *re.findall(r'\bhref="#([^"]+)"', svg)}
        assert svg.count("url(") + svg.count("href=") == len(re.findall(r'url\(#|href="#', svg))
        assert referred == set(ids)
        assert all(id_.startswith(f"{name}.") for id_ in ids)
        assert len(set(ids)) == len(ids)


def test_a_dark_screen_exchanges_every_colour_that_would_not_be_seen(drawn: dict[str, str]) -> None:
    known = {*plots.DARK, *plots.PARTS}
    for svg in drawn.values():
        root = ET.fromstring(svg)
        elements = list(root.iter())
        assert not any("style" in element.attrib for element in elements)
        used = {element.get(key, "none") for element in elements for key in ("fill", "stroke")} - {"none"}
        used = {colour for colour in used if not colour.startswith("url(")}
        assert used <= known
        sheet = root[1].text or ""
        assert sheet.startswith("@media screen and (prefers-color-scheme:dark)")
        for light in used & plots.DARK.keys():
            assert f"[fill='{light}']{{fill:{plots.DARK[light]}}}" in sheet
            assert f"[stroke='{light}']{{stroke:{plots.DARK[light]}}}" in sheet


def test_text_can_be_read_and_lines_seen_on_both_papers() -> None:
    dark_paper = plots.DARK[plots.PAPER]
    for text in (plots.INK, plots.MUTED):
        assert _contrast(text, plots.PAPER) >= 4.5
        assert _contrast(plots.DARK[text], dark_paper) >= 4.5
    for line in (*plots.TARGETS, plots.PUBLISHED):
        assert _contrast(line, plots.PAPER) >= 3
        assert _contrast(plots.DARK[line], dark_paper) >= 3


def test_the_same_figures_give_the_same_bytes_in_any_process(
    tmp_path: Path, figures: Figures, drawn: dict[str, str]
) -> None:
    (tmp_path / "figures.json").write_text(figures.model_dump_json())
    (tmp_path / "matplotlibrc").write_text("font.size: 30\naxes.grid: False\n")
    expected = hashlib.sha256("".join(drawn.values()).encode()).hexdigest()
    assert _digest_in_a_process_of_its_own(tmp_path, hash_seed="1") == expected


def _digest_in_a_process_of_its_own(folder: Path, hash_seed: str) -> str:
    program = """if True:
        import hashlib, pathlib, sys
        from loadtest.reporting.figures import Figures
        from loadtest.reporting.plots import draw_plots

        figures = Figures.model_validate_json(pathlib.Path("figures.json").read_text())
        print(hashlib.sha256("".join(draw_plots(figures).values()).encode()).hexdigest())
        assert "matplotlib.pyplot" not in sys.modules
    """
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[3])}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, timeout=DRAW_S, check=False
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode().strip()


def test_a_point_is_as_high_as_its_figure(figures: Figures, drawn: dict[str, str]) -> None:
    (first, *_) = plots.TARGETS
    uses = ET.fromstring(drawn["throughput"]).iter(f"{SVG}use")
    heights = [float(use.get("y", "")) for use in uses if use.get("fill") == first]
    one_replica = [point.steady for point in figures.points if point.target == "one_replica"]
    rps = [steady.rps or 0 for steady in one_replica if steady]
    scale = (heights[0] - heights[-2]) / (rps[-1] - rps[0])  # the last is the legend's
    assert len(rps) == 4
    for height, value in zip(heights[:-1], rps, strict=True):
        assert heights[0] - height == pytest.approx(scale * (value - rps[0]), abs=0.01)


def test_throughput_shows_the_think_time_limit_and_what_was_published(drawn: dict[str, str]) -> None:
    texts = _texts(drawn["throughput"])
    assert {"1 replica", "2 replicas", "published: 1 replica", "published: 2 replicas"} <= set(texts)
    assert {"think-time limit N/Z", "requests per second", "users", "10", "25", "50", "100"} <= set(texts)


def test_latencies_have_a_panel_for_each_percentile(drawn: dict[str, str]) -> None:
    texts = _texts(drawn["latency_predict"])
    assert [text for text in texts if text.endswith(", ms")] == ["median, ms", "p95, ms", "p99, ms"]
    assert {"100", "1,000"} <= set(texts)


def test_no_failure_is_told_in_words(figures: Figures, drawn: dict[str, str]) -> None:
    requests = sum(point.steady.requests for point in figures.points if point.steady)
    failures = sum(point.steady.failures for point in figures.points if point.steady)
    assert f"percent of requests (measured: {failures} of {requests:,} requests failed)" in _texts(drawn["failures"])
    calm = made_figures([made_point(users=5, requests=1200), made_point(users=9, requests=34)])
    assert "percent of requests (0 of 1,234 requests failed)" in _texts(draw_plots(calm)["failures"])


def test_cpu_shows_every_role_and_the_machine_apart(drawn: dict[str, str]) -> None:
    texts = _texts(drawn["cpu"])
    assert {"classifier", "target other", "load generator", "whole machine", "all 2 cores"} <= set(texts)
    assert sum(" users, " in text for text in texts) == 8


def test_many_idle_cores_do_not_squeeze_the_bars() -> None:
    role = RoleFigures(role="app", processes=1, cpu_percent=50, cpu_max_percent=60, rss_max_bytes=1, threads=1)
    point = without_traffic(made_point(roles=[role]))
    assert "all 2 cores" in _texts(draw_plots(made_figures([point], cores=2))["cpu"])
    assert "all 64 cores" not in _texts(draw_plots(made_figures([point], cores=64))["cpu"])


def test_stages_and_what_is_outside_add_up(drawn: dict[str, str]) -> None:
    assert {"predict", "decode", "inference", "outside the service's clock"} <= set(_texts(drawn["stages"]))
    part = made_part("a", None, [Stage(name="x", avg_ms=10.0), Stage(name="y", avg_ms=20.5)], unexplained_ms=9.5)
    assert "5 users: 40.0 ms" in _texts(draw_plots(made_figures([without_traffic(made_point(parts=[part]))]))["stages"])


@pytest.mark.parametrize("unexplained_ms", [None, -3.0])
def test_less_than_nothing_outside_the_clock_is_drawn_as_nothing(unexplained_ms: float | None) -> None:
    part = made_part("a", None, [Stage(name="x", avg_ms=23.0)], unexplained_ms)
    assert "5 users: 23.0 ms" in _texts(draw_plots(made_figures([without_traffic(made_point(parts=[part]))]))["stages"])


def test_bars_of_no_length_are_drawn() -> None:
    role = RoleFigures(role="app", processes=1, cpu_percent=0, cpu_max_percent=0, rss_max_bytes=1, threads=1)
    part = made_part("a", None, [Stage(name="x", avg_ms=0.0)], unexplained_ms=0.0)
    drawn = draw_plots(made_figures([without_traffic(made_point(parts=[part], roles=[role]))], cores=2))
    assert "5 users: 0 %" in _texts(drawn["cpu"])
    assert "5 users: 0.00 ms" in _texts(drawn["stages"])


def test_figures_that_nobody_knows_give_no_picture() -> None:
    assert draw_plots(made_figures([])) == {}
    empty = PointFigures(
        target="a",
        users=5,
        repetitions=0,
        steady_window_s=None,
        think_time_limit_rps=2.0,
        steady=None,
        whole_run=None,
        endpoints=[],
        roles=[],
    )
    assert draw_plots(made_figures([empty])) == {}
    nothing = Traffic(requests=0, failures=0, **dict.fromkeys(METRICS))
    silent = empty.model_copy(update={"steady": nothing, "endpoints": [made_part("a", None)]})
    assert draw_plots(made_figures([silent])) == {}


def test_one_target_at_one_number_of_users_is_drawn() -> None:
    drawn = draw_plots(made_figures([made_point(parts=[made_part("a", 7.0)])]))
    assert list(drawn) == ["throughput", "latency_a", "failures"]


def test_a_latency_of_zero_is_drawn_on_a_linear_axis() -> None:
    points = [made_point(users=users, parts=[made_part("a", ms)]) for users, ms in ((1, 0.0), (2, 900.0))]
    assert "0" in _texts(draw_plots(made_figures(points))["latency_a"])


def test_a_level_without_data_is_left_out() -> None:
    missing = made_point(users=77).model_copy(update={"steady": None})
    texts = _texts(draw_plots(made_figures([made_point(users=5), missing]))["throughput"])
    assert "5" in texts
    assert "77" not in texts


def test_crowded_numbers_of_users_do_not_overlap() -> None:
    levels = [1, 2, 5, 10, 20, 50, 100, 101, 102, 500, 1000]
    points = [made_point(users=users, parts=[made_part("a", 7.0)]) for users in levels]
    drawn = draw_plots(made_figures(points))
    for name in ("throughput", "latency_a"):
        root = ET.fromstring(drawn[name])
        numbers = [text for text in root.iter(f"{SVG}text") if text.get("text-anchor") == "middle"]
        places = [
            (float(text.get("x", "")), len(text.text or ""))
            for text in numbers
            if re.fullmatch(r"[\d,]+", text.text or "")
        ]
        assert len(places) > 4
        for (left, _), (right, length) in itertools.pairwise(places):
            assert right < left or right - left > 3.5 * length


def test_any_name_is_drawn_as_it_is() -> None:
    titles = ["a $x^2$ <b>&amp; \u202e", "_hidden", "\N{ROCKET} \x00\x1b[31m", "x" * 300, "", "last"]
    targets = [TargetFacts(name=f"t{i}", title=title, replicas=None, about={}) for i, title in enumerate(titles)]
    points = [
        made_point(target.name, users, parts=[made_part("GET /ü", 5.0)]) for target in targets for users in (3, 8)
    ]
    figures = made_figures(points).model_copy(update={"targets": targets, "endpoints": ["GET /ü", "GET /ü/"]})
    texts = _texts(draw_plots(figures)["throughput"])
    assert {"a $x^2$ <b>&amp; \u202e", "_hidden", "\N{ROCKET} [31m", "last"} <= set(texts)
    assert any(re.fullmatch("x+…x+", text) for text in texts)


def test_endpoints_with_like_names_have_pictures_of_their_own() -> None:
    parts = [made_part(name, 5.0) for name in ("GET /a", "GET /a/", "GET /ü?" + "x" * 300)]
    names = [name for name in draw_plots(made_figures([made_point(parts=parts)])) if name.startswith("latency")]
    assert names[:2] == ["latency_GET_a", "latency_GET_a_2"]
    assert re.fullmatch("latency_GET_x{10,90}", names[2])


METRICS = ("failures_percent", "rps", "median_ms", "avg_ms", "p95_ms", "p99_ms", "max_ms")


def made_traffic(requests: int, median_ms: float | None) -> Traffic:
    many_ms = None if median_ms is None else 3 * median_ms
    return Traffic(
        requests=requests,
        failures=0,
        failures_percent=0.0,
        rps=requests / 60,
        median_ms=median_ms,
        avg_ms=median_ms,
        p95_ms=many_ms,
        p99_ms=many_ms,
        max_ms=many_ms,
    )


def made_part(
    name: str, median_ms: float | None, stages: Iterable[Stage] = (), unexplained_ms: float | None = None
) -> EndpointFigures:
    traffic = made_traffic(30, median_ms)
    return EndpointFigures(
        endpoint=name, steady=traffic, whole_run=traffic, stages=list(stages), unexplained_ms=unexplained_ms
    )


def made_point(
    target: str = "a",
    users: int = 5,
    requests: int = 60,
    parts: Iterable[EndpointFigures] = (),
    roles: Iterable[RoleFigures] = (),
) -> PointFigures:
    return PointFigures(
        target=target,
        users=users,
        repetitions=1,
        steady_window_s=60.0,
        think_time_limit_rps=users / 3,
        steady=made_traffic(requests, 8.0),
        whole_run=None,
        endpoints=list(parts),
        roles=list(roles),
    )


def without_traffic(point: PointFigures) -> PointFigures:
    """Return the point without figures of all requests: no picture of throughput or failures is drawn then."""
    return point.model_copy(update={"steady": None})


def made_figures(points: list[PointFigures], cores: int | None = None) -> Figures:
    endpoints = dict.fromkeys(part.endpoint for point in points for part in point.endpoints)
    return Figures(
        title="made",
        source="run folder",
        machine={"cores": cores} if cores else None,
        dates=[],
        test={},
        targets=[TargetFacts(name="a", title="a", replicas=None, about={})],
        endpoints=list(endpoints),
        baseline=None,
        points=points,
        cells=[],
        comparisons=[],
        takeaways=[],
        recommendations=[],
        bottom_line="",
        all_valid=True,
        all_limits_met=True,
    )


def _texts(svg: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(svg).iter(f"{SVG}text")]


def _contrast(a: str, b: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""
    darker, lighter = sorted((_luminance(a), _luminance(b)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
