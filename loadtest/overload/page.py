"""An overload test as tables on the terminal and as a Markdown page. Called by the command line."""

from loadtest.figures.figures import NO_FIGURE, show_bytes, show_count, show_ms, show_rps
from loadtest.overload.figures import LevelFigures, OverloadFigures
from loadtest.page.drawing import Columns, Picture, Ranges, draw
from loadtest.page.markdown import make_table
from loadtest.page.terminal import Column, columns_of, print_table

PICTURE = "overload.svg"

_HEADINGS = (
    "load", "asked/s", "right/s", "right p50, p95 ms", "refused", "refusal p95, max ms", "other", "light p95 ms, idle",
    "recovered s", "memory, peak",
)  # fmt: skip


def print_overload(figures: OverloadFigures) -> None:
    """Print the levels, the promises and the verdict."""
    broken = {promise.times for promise in figures.promises if not promise.kept}
    styles = ["red" if level.times in broken else "green" for level in figures.levels]
    print_table(_title(figures), columns_of(_HEADINGS), map(_cells, figures.levels), styles)
    columns = [Column("load"), Column("promise", is_number=False), Column("measured", is_number=False), Column("")]
    styles = ["" if promise.kept else "red" for promise in figures.promises]
    print_table("Promises", columns, _promises(figures), styles)
    print(tell_verdict(figures))


def tell_verdict(figures: OverloadFigures) -> str:
    """Return what came of it in one sentence."""
    kept = sum(promise.kept for promise in figures.promises)
    return f"{figures.target}: {kept} of {len(figures.promises)} promises kept; capacity {figures.capacity_rps:.1f}/s"


def render_markdown(figures: OverloadFigures, command: str) -> str:
    """Return the page; `command` is what makes it. The same figures give the same bytes."""
    question = figures.question
    words = [
        f"# Overload: {figures.target}",
        f"Made by `{command}`.",
        (
            f"**{tell_verdict(figures)}.** The capacity is what {question.saturating_users} users who do not think get "
            f"in right answers per second. Each level sends multiples of it for {question.seconds:g} s as an open "
            "loop: requests start when they are due, whatever became of earlier ones. Beside it, a light load of ten "
            f"`{question.light}` and one `{question.heavy}` a second goes on from {question.idle_s:g} s before to "
            f"{question.tail_s:g} s after: it shows what a neighbour feels, and when all is as before."
        ),
        f"![Right answers, refusals and latencies by load]({PICTURE})",
        make_table(_HEADINGS, map(_cells, figures.levels)),
        (
            "*right*: the result, complete within the load. *refused*: 503 in the error shape with `Retry-After`. "
            "*other*: anything else, resets and time-outs included. Latencies count from the sending. *recovered*: "
            "from the load's end until a prediction is right and at most twice as slow as the slowest before it, as "
            "all later ones are. *memory*: the target's processes together, pages that they share several times."
        ),
        "## Promises",
        make_table(("load", "promise", "measured", "kept"), _promises(figures)),
        "## CPU, percent of one core, over the load",
        _cpu_table(figures),
    ]
    return "\n\n".join(words) + "\n"


def _title(figures: OverloadFigures) -> str:
    return f"{figures.target}: multiples of its capacity, {figures.capacity_rps:.1f} {figures.question.heavy}/s"


def _cells(level: LevelFigures) -> list[str]:
    light = level.light
    others = sum(level.other_failures.values()) + level.unanswered + level.unsent
    return [
        f"{level.times:g}x",
        show_rps(level.asked_rps),
        show_rps(level.goodput_rps),
        f"{show_ms(level.median_ms)}, {show_ms(level.p95_ms)}",
        show_count(level.refused),
        f"{show_ms(level.refusal_p95_ms)}, {show_ms(level.refusal_max_ms)}" if level.refused else NO_FIGURE,
        show_count(others),
        f"{show_ms(light.p95_ms)}, {show_ms(light.idle_p95_ms)}",
        NO_FIGURE if level.recovered_after_s is None else f"{level.recovered_after_s:.1f}",
        f"{show_bytes(level.memory_begin_bytes)}, {show_bytes(level.memory_peak_bytes)}",
    ]


def _promises(figures: OverloadFigures) -> list[list[str]]:
    return [
        [f"{promise.times:g}x", promise.promise, promise.measured, "kept" if promise.kept else "BROKEN"]
        for promise in figures.promises
    ]


def _cpu_table(figures: OverloadFigures) -> str:
    roles = sorted({role for level in figures.levels for role in level.cpu_percent})
    rows = (
        [f"{level.times:g}x", *(f"{level.cpu_percent.get(role, 0.0):.0f}" for role in roles)]
        for level in figures.levels
    )
    return make_table(("load", *roles), rows)


def draw_overload(figures: OverloadFigures) -> str:
    """Return SVG text: answers per second and latencies at each level."""
    levels = figures.levels
    series = {"right": "right answers", "refused": "refusals", "light": f"{figures.question.light} beside them"}
    answers = {
        "right": [level.goodput_rps for level in levels],
        "refused": [level.refused / level.window_s for level in levels],
    }
    latencies = {
        "right": [_known(median=level.median_ms, p95=level.p95_ms) for level in levels],
        "refused": [_known(p95=level.refusal_p95_ms) for level in levels],
        "light": [_known(p95=level.light.p95_ms) for level in levels],
    }
    names = [f"{level.times:g}x" for level in levels]
    panels: list[Columns | Ranges] = [
        Columns("answers per second", names, answers, [level.asked_rps for level in levels])
    ]
    found = {name: values for name, values in latencies.items() if any(values)}
    panels += [Ranges("latency, ms", names, found)] if found else []
    across = "load, in multiples of the capacity"
    return draw(Picture("overload", f"{figures.target} under too much load", panels, series, across, "asked for"))


def _known(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
