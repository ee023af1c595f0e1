"""The pictures of a report: what they show, that they are the same bytes each time, and that they load nothing."""

import hashlib
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from loadtest.figures.figures import EndpointFigures, Figures, PointFigures, RoleFigures, Stage, TargetFacts, Traffic
from loadtest.page import plots
from loadtest.page.drawing import DARK, LIGHT, Theme
from loadtest.page.plots import draw_plots
from loadtest.rows.run_folder import RunFolder
from loadtest.verdict.summary import summarize
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
    assert list(drawn) == ["throughput", "latency_predict", "latency_lookup", "failures", "published", "cpu", "stages"]


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


@pytest.fixture(scope="module")
def hatched() -> dict[str, str]:
    """Of eight targets: two more than there are colours."""
    facts = [TargetFacts(name=name, title=name, replicas=None, about={}) for name in "abcdefgh"]
    points = [made_point(target.name, parts=[made_part("a", 7.0)]) for target in facts]
    return draw_plots(made_figures(points).model_copy(update={"targets": facts}))


def test_targets_beyond_the_colours_are_hatched(hatched: dict[str, str]) -> None:
    for svg in hatched.values():
        for drawing in _drawings(svg):
            assert [*drawing.iter(f"{SVG}pattern")]


@pytest.mark.parametrize("pictures", ["drawn", "hatched"])
def test_a_picture_refers_only_to_itself_and_shares_no_id(pictures: str, request: pytest.FixtureRequest) -> None:
    drawn: dict[str, str] = request.getfixturevalue(pictures)
    seen: set[str] = set()
    for svg in drawn.values():
        everything = svg.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "http" not in everything
        assert "<!" not in everything
        ids = re.findall(r'\bid="([^"]+)"', svg)
        referred = {*re.findall(r"url\(#([^)]+)\)", svg), *re.findall(r'\bhref="#([^"]+)"', svg)}
        assert svg.count("url(") + svg.count("href=") == len(re.findall(r'url\(#|href="#', svg))
        assert referred == set(ids)
        assert len(set(ids)) == len(ids)
        assert not seen & set(ids)
        seen |= set(ids)


def test_a_picture_is_drawn_on_light_and_on_dark_paper_and_one_of_them_is_shown(drawn: dict[str, str]) -> None:
    for svg in drawn.values():
        root = ET.fromstring(svg)
        assert (root[1].text or "").startswith(".plot .dark{display:none}@media screen and (prefers-color-scheme:dark)")
        drawings = _drawings(svg)
        assert [drawing.get("class") for drawing in drawings] == ["light", "dark"]
        for drawing, theme in zip(drawings, (LIGHT, DARK), strict=True):
            assert drawing.get("viewBox") == root.get("viewBox")
            assert not {"width", "height", "id"} & drawing.attrib.keys()
            used = set(re.findall(r"#[0-9a-f]{6}\b", ET.tostring(drawing, encoding="unicode")))
            assert {theme.paper, theme.ink} <= used <= {*_colours(theme), *plots.STAGES, *plots.ROLES}
        assert _texts(svg) == [text.text for text in drawings[1].iter(f"{SVG}text")]


def test_text_can_be_read_and_series_seen_on_both_papers() -> None:
    for theme in (LIGHT, DARK):
        for text in (theme.ink, theme.muted):
            assert _contrast(text, theme.paper) >= 4.5
        for series in theme.series:
            assert _contrast(series, theme.paper) >= 3


def test_each_colour_of_light_paper_stands_for_one_of_dark_paper() -> None:
    """The dark drawing is made of the light one by its colours."""
    light, dark = _colours(LIGHT), _colours(DARK)
    assert len({*light}) == len(light) == len(dark)
    assert not {*light} & {*plots.STAGES, *plots.ROLES}


def test_a_colour_in_a_name_is_no_colour_of_the_drawing() -> None:
    name = f'{LIGHT.ink} id="a" href="#b"'
    facts = TargetFacts(name="a", title=name, replicas=None, about={})
    svg = draw_plots(made_figures([made_point()]).model_copy(update={"targets": [facts]}))["throughput"]
    for drawing in _drawings(svg):
        assert name in [text.text for text in drawing.iter(f"{SVG}text")]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_that_is_compared_is_drawn_over_each_other(theme: str, drawn: dict[str, str]) -> None:
    """Columns and ranges of two targets with the same values stand beside each other."""
    points = [
        made_point(target, users, parts=[made_part("a", 7.0)]) for target in ("a", "b", "c") for users in (5, 50, 500)
    ]
    for svg in (*drawn.values(), *draw_plots(made_figures(points)).values()):
        (drawing,) = (one for one in _drawings(svg) if one.get("class") == theme)
        lines = [path.get("d", "") for path in drawing.iter(f"{SVG}path") if "fill: none" in path.get("style", "")]
        strokes = [_points(line) for line in lines]
        crossing = [stroke for stroke in strokes if len({round(x) for x, _ in stroke}) > 2 and _width(stroke) > 30]
        assert not crossing  # only a line from level to level has several points so far apart
        filled = [_box(path.get("d", "")) for path in drawing.iter(f"{SVG}path") if _fill(path) in _series(theme)]
        for one, other in itertools.combinations(filled, 2):
            across = min(one[1], other[1]) - max(one[0], other[0])
            down = min(one[3], other[3]) - max(one[2], other[2])
            assert across < 0.5 or down < 0.5


def _width(points: list[tuple[float, float]]) -> float:
    return max(x for x, _ in points) - min(x for x, _ in points)


def _points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path)]


def _box(path: str) -> tuple[float, float, float, float]:
    xs, ys = zip(*_points(path), strict=True)
    return min(xs), max(xs), min(ys), max(ys)


def _fill(path: ET.Element) -> str:
    found = re.search(r"fill: (#[0-9a-f]{6})", path.get("style", ""))
    return found[1] if found else ""


def _series(name: str) -> tuple[str, ...]:
    theme: Theme = {"light": LIGHT, "dark": DARK}[name]
    return theme.series


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
        from loadtest.figures.figures import Figures
        from loadtest.page.plots import draw_plots

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


def test_a_column_is_as_high_as_its_figure(figures: Figures, drawn: dict[str, str]) -> None:
    one_replica = [point.steady for point in figures.points if point.target == "one_replica"]
    rps = [steady.rps or 0 for steady in one_replica if steady]
    paths = [
        path for path in ET.fromstring(drawn["throughput"])[2].iter(f"{SVG}path") if _fill(path) == LIGHT.series[0]
    ]
    boxes = [_box(path.get("d", "")) for path in paths][: len(rps)]  # the last is the legend's
    heights = [bottom - top for _, _, top, bottom in boxes]
    assert len(heights) == len(rps) == 4
    for height, value in zip(heights, rps, strict=True):
        assert height == pytest.approx(heights[-1] * value / rps[-1], abs=0.01)
    assert [f"{value:.3g}" for value in rps] == [
        text for text in _texts(drawn["throughput"]) if text in {f"{v:.3g}" for v in rps}
    ][:4]


def test_throughput_shows_the_think_time_limit_and_nothing_published(drawn: dict[str, str]) -> None:
    texts = _texts(drawn["throughput"])
    assert {"1 replica", "2 replicas", "think-time limit N/Z", "requests per second", "users"} <= set(texts)
    assert texts[:4] == ["10", "25", "50", "100"]
    for name, svg in drawn.items():
        assert ("published: 1 replica" in _texts(svg)) == (name == "published")


def test_published_figures_have_a_picture_of_their_own(figures: Figures, drawn: dict[str, str]) -> None:
    texts = _texts(drawn["published"])
    assert {"published: 1 replica", "published: 2 replicas", "requests per second", "predict median, ms"} <= set(texts)
    assert {"failures, percent of requests", "lookup median, ms", "22", "7.5", "2,200"} <= set(texts)
    alone = figures.model_copy(update={"baseline": None})
    assert "published" not in draw_plots(alone)


def test_latencies_show_three_percentiles_of_each_target(drawn: dict[str, str]) -> None:
    texts = _texts(drawn["latency_predict"])
    assert {"median", "p95", "p99", "1 replica", "2 replicas", "ms"} <= set(texts)


def test_failures_are_drawn_where_there_are_some() -> None:
    calm = made_figures([made_point(users=5, requests=1200), made_point(users=9, requests=34)])
    assert "failures" not in draw_plots(calm)
    bad = made_point(users=9)
    assert bad.steady
    bad = bad.model_copy(update={"steady": bad.steady.model_copy(update={"failures": 3, "failures_percent": 5.0})})
    texts = _texts(draw_plots(made_figures([made_point(users=5), bad]))["failures"])
    assert {"percent of requests", "0", "5"} <= set(texts)


def test_a_stage_has_one_colour_in_every_picture() -> None:
    def colours_of(*stages: str) -> dict[str, str]:
        part = made_part("a", None, [Stage(name=name, avg_ms=10.0) for name in stages], unexplained_ms=9.5)
        svg = draw_plots(made_figures([without_traffic(made_point(parts=[part]))]))["stages"]
        drawing = ET.fromstring(svg)[2]
        fills = [_fill(path) for path in drawing.iter(f"{SVG}path") if _fill(path) in {*plots.STAGES, LIGHT.rest}]
        return dict(zip([*stages, plots.OUTSIDE], fills, strict=False))

    known = colours_of("upload", "decode", "queue", "inference", "answer")
    assert len({*known.values()}) == 6
    assert colours_of("inference", "cache", "upload").items() >= {
        "inference": known["inference"], "upload": known["upload"], plots.OUTSIDE: known[plots.OUTSIDE],
    }.items()  # fmt: skip
    assert colours_of("work", "a lock") == {
        name: colours_of("a lock", "work")[name] for name in ("work", "a lock", plots.OUTSIDE)
    }
    assert len({*colours_of(*"abcdefghij").values()}) == 11


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
    assert list(drawn) == ["throughput", "latency_a"]


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
        names = {f"{users:,}" for users in levels}
        numbers = [text for text in root[2].iter(f"{SVG}text") if text.text in names]
        lowest = max(float(text.get("y", "")) for text in numbers)
        places = [
            (float(text.get("x", "")), len(text.text or ""))
            for text in numbers
            if float(text.get("y", "")) == lowest and "middle" in text.get("style", "")
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


def _drawings(svg: str) -> list[ET.Element]:
    """Return the drawings on light and on dark paper."""
    light, dark = ET.fromstring(svg)[2:]
    return [light, dark]


def _colours(theme: Theme) -> list[str]:
    others = [getattr(theme, field.name) for field in fields(theme) if field.name not in {"name", "series"}]
    return [*others, *theme.series]


def _texts(svg: str) -> list[str]:
    """Return the texts of the drawing on light paper."""
    return [text.text or "" for text in ET.fromstring(svg)[2].iter(f"{SVG}text")]


def _contrast(a: str, b: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""
    darker, lighter = sorted((_luminance(a), _luminance(b)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
