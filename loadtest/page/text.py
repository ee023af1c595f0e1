"""The report as Markdown: the layout stands in templates/report.md.j2, its tables are made by the modules beside this.

Called by `report`. Every number comes from the figures; nothing is computed here but how it is written.
"""

from collections.abc import Sequence

from loadtest.figures.figures import Figures, show_count
from loadtest.page import introduction, opening, tables
from loadtest.page.layout import load_template
from loadtest.page.plots import TITLES, title_latency
from loadtest.statistics.percentiles import LEAST_SAMPLES
from loadtest.verdict import differences

_APART = ("cpu", "stages")
"""Pictures that stand beside their own tables."""


def render_markdown(figures: Figures, plots: Sequence[str] = ()) -> str:
    """Return the report, with links to those of the `plots` (file names without `.svg`) that were drawn."""
    return load_template("report.md.j2").render(
        figures=figures,
        test=figures.test,
        plots=_link(plots),
        opening=opening,
        introduction=introduction,
        tables=tables,
        notes=_notes(figures),
        no_failure=_tell_no_failure(figures),
        thresholds=differences,
        least_samples=[*LEAST_SAMPLES.values()],
    )


def _link(plots: Sequence[str]) -> dict[str, str]:
    """Return Markdown that shows each picture that stands apart, and all others together as `results`."""
    titles = {name: TITLES.get(name) or title_latency(name.removeprefix("latency_")) for name in plots}
    links = {name: f"![{title}](plots/{name}.svg)" for name, title in titles.items()}
    results = "\n".join(link for name, link in links.items() if name not in _APART)
    return {"results": results, **{name: links.get(name, "") for name in _APART}}


def _tell_no_failure(figures: Figures) -> str:
    """Return the sentence that stands in the place of a picture without failures."""
    steady = [point.steady for point in figures.points if point.steady]
    requests = sum(traffic.requests for traffic in steady)
    if not requests or any(traffic.failures for traffic in steady):
        return ""
    return f"No request failed: 0 of {show_count(requests)} in the steady windows."


def _notes(figures: Figures) -> list[str]:
    """Return each note once, with the cells that it is of."""
    cells: dict[str, list[str]] = {}
    for cell in figures.cells:
        for note in cell.notes:
            cells.setdefault(note, []).append(tables.name_cell(figures, cell))
    every = len(figures.cells)
    return [
        f"{'all cells' if len(named) == every > 1 else ' and '.join(named)}: {note}" for note, named in cells.items()
    ]
