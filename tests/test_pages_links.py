"""The pages (README, docs and the others): their links, paths and commands exist, and README stays short."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from serve_app import errors
from tests.service import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
MANUAL = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")]
SOURCES = [
    path
    for folder in ("serve_app", "loadtest", "configs", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".yaml", ".env", ".lua"}
] + [ROOT / name for name in ("Makefile", "pyproject.toml", "ray_cluster.yaml")]
PROGRAMS = {"serve_app": "serve-app", "serve_app.client": "serve-app-client", "loadtest": "loadtest"}
ELSEWHERE = ("http://", "https://", "mailto:")


@cache
def tokens_of(page: Path) -> tuple[Token, ...]:
    """Return the tokens of a page, each followed by those within it."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    return tuple(each for token in tokens for each in (token, *(token.children or ())))


def links_of(page: Path) -> set[str]:
    found = {str(token.attrGet("href") or token.attrGet("src") or "") for token in tokens_of(page)}
    return {link for link in found if link and not link.startswith(ELSEWHERE)}


@cache
def anchors_of(page: Path) -> set[str]:
    """Return the anchors that a forge gives to the headings of a page; the second of a name ends in -1."""
    seen: Counter[str] = Counter()
    anchors = set()
    for opening, inline in pairwise(tokens_of(page)):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return anchors


def code_of(page: Path) -> list[str]:
    """Return the lines of code on a page, without comments; what ends in a backslash is one line with the next."""
    code = [token.content for token in tokens_of(page) if token.type in {"code_inline", "fence"}]
    lines = (line for text in code for line in text.replace("\\\n", " ").splitlines())
    return [re.split(r"(?:^|\s)#\s", line)[0] for line in lines]


def lines_that_name(pattern: str) -> list[tuple[str, list[str]]]:
    """Return what the first group of `pattern` names in the code of the manual, with the options that follow it."""
    found = []
    for line in (line for page in MANUAL for line in code_of(page)):
        for match in re.finditer(pattern, line):
            options = re.findall(r"(?<=\s)--[a-z][a-z0-9-]*", re.split(r"\||;|&&", line[match.end() :])[0])
            found.append((match[1], options))
    return found


HELP_OF_ALL = """
import contextlib, io, json, runpy, sys
helps = []
for module, *words in json.loads(sys.argv[1]):
    sys.argv = [module, *words, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    helps.append(printed.getvalue())
print(json.dumps(helps))
"""


def helps_of(*commands: tuple[str, ...]) -> dict[tuple[str, ...], str]:
    """Return what `--help` prints for each command, nothing where there is none. One process: imports take seconds."""
    run = [sys.executable, "-c", HELP_OF_ALL, json.dumps(commands)]
    printed = subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return dict(zip(commands, json.loads(printed), strict=True))


def missing_from(text: str, options: Iterable[str]) -> list[str]:
    return [option for option in options if not re.search(rf"{option}\b(?!-)", text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_anchor_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []


def test_the_pages_have_links_and_anchors_to_look_at() -> None:
    links = {link for page in PAGES for link in links_of(page)}
    assert {"docs/service.md", "security.md#ports", "docs/figures.md#capacity"} <= links


def test_the_index_of_the_docs_has_every_page() -> None:
    index = {link.partition("#")[0] for link in links_of(ROOT / "docs" / "README.md")}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= index


def test_every_page_that_the_code_names_exists() -> None:
    named = {name for path in SOURCES for name in re.findall(r"\bdocs/\w+\.md\b", path.read_text(encoding="utf-8"))}
    assert {"docs/redis.md", "docs/security.md"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_every_path_in_the_code_of_the_manual_exists() -> None:
    pattern = r"(?<![\w/.~-])(?:docs|configs|tests|serve_app|loadtest)/[\w./-]*\w(?![\w/*])"
    named = {name for page in MANUAL for line in code_of(page) for name in re.findall(pattern, line)}
    assert {"configs/one_replica.yaml", "tests/audits/published_report.yaml"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_make_target_that_the_manual_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {name for name, _ in lines_that_name(r"\bmake (?:[A-Z_]+=\S+ )*([a-z][a-z-]*)")}
    assert {"serve", "test", "stress", "soak", "help"} <= named
    assert named - set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)) == set()
    given = {name for line in (line for page in MANUAL for line in code_of(page)) for name in made_with(line)}
    assert {"CONFIG", "MINUTES"} <= given
    assert [name for name in sorted(given) if not re.search(rf"\b{name}\b", makefile)] == []


def made_with(line: str) -> list[str]:
    """Return the variables that a line hands to make."""
    return [name for match in re.finditer(r"\bmake [^;&|]*", line) for name in re.findall(r"([A-Z_]+)=", match[0])]


def test_every_module_that_the_manual_runs_exists() -> None:
    named = {name for name, _ in lines_that_name(r"\bpython3? -m ([a-z_][\w.]*)")}
    assert {"loadtest", "serve_app", "serve_app.client", "tests.benchmarks.cache"} <= named
    named |= {name for name, _ in lines_that_name(r"(?<![\w/.])(tests\.benchmarks\.\w+)")}
    assert [name for name in sorted(named) if not can_be_run(name)] == []


def can_be_run(module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return False
    if spec is None or spec.submodule_search_locations is None:
        return spec is not None
    return importlib.util.find_spec(f"{module}.__main__") is not None


def test_every_command_of_the_kit_that_the_manual_names_exists_with_its_options() -> None:
    named = lines_that_name(r"(?<![\w/.-])loadtest ([a-z]+)\b")
    assert {"run", "report", "compare", "capacity", "overload", "faults", "soak", "tune", "audit", "fuzz"} <= {
        name for name, _ in named
    }
    helps = helps_of(*{("loadtest", name) for name, _ in named})
    for name, options in named:
        text = helps["loadtest", name]
        assert text, f"there is no `loadtest {name}`"
        assert missing_from(text, options) == [], name


def test_every_program_that_the_manual_names_is_installed_and_has_the_options_named() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(PROGRAMS.values()) <= set(scripts)
    named = {name for name, _ in lines_that_name(r"(?:^|(?<=bin/))(serve-app[a-z-]*)(?= |$)")}
    assert {"serve-app", "serve-app-haproxy"} <= named <= set(scripts)
    commands = (("serve_app",), ("serve_app.client",), ("serve_app.client", "evaluate"), ("serve_app.redeploy",))
    for (module, *words), text in helps_of(*commands).items():
        command = " evaluate" if words else "(?! evaluate)"
        pattern = rf"(?:-m {re.escape(module)}|^{PROGRAMS.get(module, module)}){command}(?=( )|$)"
        options = [option for _, found in lines_that_name(pattern) for option in found]
        assert options
        assert missing_from(text, options) == [], (module, *words)


def test_every_error_code_is_on_the_page_of_the_service() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    codes = {(kind.status, kind.code) for kind in kinds if issubclass(kind, errors.ServiceError)}
    page = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    listed = {(int(status), code) for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)` \|", page, re.MULTILINE)}
    assert len(codes) > 20
    assert listed == codes


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
