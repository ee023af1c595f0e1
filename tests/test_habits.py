"""What a newcomer tries first: `make help`, the hooks for git, CI, the changelog."""

import re
import subprocess
import tomllib

import yaml

from tests.service import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()


def test_make_help_lists_every_target_with_what_it_does() -> None:
    command = ["make", "--no-print-directory", "help"]  # it also runs below `make test`
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    [phony] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    listed = dict(re.findall(r"^make (\S+) +(\S.*)$", printed, re.MULTILINE))
    assert {*listed} == set(phony.split())
    assert len(printed.splitlines()) == len(listed)


def test_git_hooks_run_what_make_check_runs() -> None:
    [recipe] = re.findall(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    checks = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == checks
    assert repository["repo"] == "local"  # nothing is fetched
    assert {(hook["language"], hook["pass_filenames"]) for hook in repository["hooks"]} == {("system", False)}


def test_ci_has_the_whole_history_where_tests_run_the_code_of_0_1_0_and_root_may_read_it() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    [job] = [job for job in jobs.values() if {"run": "make test-long"} in job["steps"]]
    [checkout] = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
    assert checkout["with"]["fetch-depth"] == 0
    before = job["steps"][: job["steps"].index(checkout)]
    assert {"run": "git config --system --add safe.directory '*'"} in before
    # Elsewhere git runs as the user to whom the files belong.
    assert [each for each in jobs.values() if "container" in each] == [job]


def test_the_changelog_begins_with_the_version_of_the_package_and_sorts_by_kind_of_change() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    versions = re.findall(r"^## (\S+)", text, re.MULTILINE)
    assert versions[0] == version
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert {"Added", "Changed"} <= kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for each in re.split(r"^## .*\n", text, flags=re.MULTILINE)[1:]:
        assert re.match(r"\n### ", each), "an entry stands under no kind of change"
