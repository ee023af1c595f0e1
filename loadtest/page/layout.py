"""Loads the layouts of reports, which stand in templates/. Called by `text` and `page`."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from loadtest.page.markdown import escape


def load_template(name: str) -> Template:
    """Return a template; in HTML everything is escaped, in Markdown what the filter `text` is given."""
    environment = Environment(
        loader=PackageLoader("loadtest.page"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=name.endswith(".html.j2"),
    )  # fmt: skip
    environment.filters["text"] = escape
    return environment.get_template(name)
