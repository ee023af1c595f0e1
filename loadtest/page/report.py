"""Writes a report beside the raw files it was made from: Markdown, a page, pictures, and every figure as JSON.

Called by the command line. The same figures give the same bytes: nothing of the time or place of writing gets in.
"""

import json
import re
from pathlib import Path

from loadtest.figures.figures import Figures
from loadtest.page.page import render_page
from loadtest.page.plots import draw_plots
from loadtest.page.text import render_markdown
from loadtest.rows.run_folder import write_whole

_PICTURE = re.compile(r"^!\[[^\]]*\]\((plots/[\w-]+\.svg)\)$", re.MULTILINE)


def write_report(figures: Figures, folder: Path) -> list[Path]:
    """Write report.md, report.html, report.json and plots/ into `folder`; return what was written. Raises OSError.

    Pictures of an earlier report in the same place that this one does not have are deleted.
    """
    plots = draw_plots(figures)
    markdown = render_markdown(figures, list(plots))
    texts = {
        folder / "report.json": _as_json(figures),
        folder / "report.md": markdown,
        folder / "report.html": render_page(markdown, plots, figures.title),
        **{folder / "plots" / f"{name}.svg": svg for name, svg in plots.items()},
    }
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for old in _pictures_of(folder / "report.md") - set(texts):
        old.unlink(missing_ok=True)
    for path, text in texts.items():
        write_whole(path, text)
    return list(texts)


def _pictures_of(report: Path) -> set[Path]:
    """Return the pictures that a report of ours links."""
    if not report.is_file():
        return set()
    links = _PICTURE.findall(report.read_text(encoding="utf-8", errors="replace"))
    return {report.parent / link for link in links}


def _as_json(figures: Figures) -> str:
    return json.dumps(figures.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
