"""YAML of a service's config: a key stands once, a number is what it looks like, and nothing is quoted."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.deployments.config_text import read_config, read_yaml
from serve_app.errors import SetupError
from tests.service import CONFIGS

PLANTED = "pl4nted"


def refusal(text: str) -> str:
    with pytest.raises(SetupError) as caught:
        read_yaml(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a: &a {k: 1, l: 2}\nb: {<<: *a, k: 3}", {"a": {"k": 1, "l": 2}, "b": {"k": 3, "l": 2}}),
        ("b: &b {<<: {k: 1}, k: 2}\nc: {<<: *b, k: 3}\nd: *b", {"b": {"k": 2}, "c": {"k": 3}, "d": {"k": 2}}),
        ("a: &a {k: 1}\nb: &b {<<: *a, k: 2}\nc: [*b, *b]", {"a": {"k": 1}, "b": {"k": 2}, "c": [{"k": 2}, {"k": 2}]}),
        ("1: a\n'1': b", {1: "a", "1": "b"}),
        ("'yes': a\nyes: b", {"yes": "a", True: "b"}),
    ],
)  # fmt: skip
def test_a_merge_and_keys_that_look_alike_are_no_key_twice(text: str, read: object) -> None:
    assert read_yaml(text) == read == yaml.safe_load(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2",
        "true: a\nyes: b",
        "yes: a\non: b",
        "1: a\n0x1: b",
        "1: a\n0b1: b",
        "a: {b: 1, 'b': 2}",
        "{1: a, true: b}",
    ],
)
def test_keys_that_mean_the_same_are_refused(text: str) -> None:
    assert "stands twice" in refusal(text)


@pytest.mark.parametrize(
    "value", ["010", "-010", "0_10", "08", "019", "1:30", "-1:30:00", "1:30.5", "!!int 010", "!!int '1:30'"]
)
def test_a_number_that_is_another_one_in_yaml_1_1_is_refused_by_its_key(value: str) -> None:
    for text in (f"threads: {value}", f"a: [{{threads: {value}}}]"):
        told = refusal(text)
        assert "line 1, column" in told
        assert "'threads': YAML 1.1 takes 010 for 8 and 1:30 for 90" in told
    assert "YAML 1.1 takes" in refusal(f"[{value}]")


@pytest.mark.parametrize("value", ["1" + "0" * 400, "-0x1" + "0" * 300, "18446744073709551617"])
def test_a_number_beyond_all_use_is_refused_by_its_key(value: str) -> None:
    assert "'threads': the number is above 2^64; write a smaller one" in refusal(f"threads: {value}")


@pytest.mark.parametrize(
    "text",
    ["a: 0", "a: -0", "a: 0.5", "a: 10", "a: 1_000", "a: 0x1F", "a: '010'", "a: '1:30'", "a: 127.0.0.1:8000", "a: 1e3",
     "a: 18446744073709551616", "a: 2024-05-06", "a: off", "a: 00:00:00:00:00:00", "a: 0755x"],
)  # fmt: skip
def test_all_else_means_what_it_means_to_serve(text: str) -> None:
    assert read_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_mean_the_same_to_serve(path: Path) -> None:
    found: dict[str, Any] = read_config(path)
    assert found == yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "a: 2024-13-45",
        f"a: !!bool {PLANTED}",
        f"a: !!int {PLANTED}",
        f"a: !!float {PLANTED}",
        f"a: !!timestamp {PLANTED}",
        f"a: !{PLANTED}",
        f"a: !!{PLANTED} x",
        f"a: *{PLANTED}",
        f"a: !{PLANTED}!x y",
        f"a: !!binary {PLANTED}ä",
        f"a: &{PLANTED} x\nb: *{PLANTED}x",
        f"? {{a: {PLANTED}}}\n: b",
        f"{{u:{PLANTED}@h: 1, u:{PLANTED}@h: 2}}",
        f"!!int {PLANTED}: 1",
        "[" * 1000,
        "- " * 1000,
        "a: [",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_in_a_line_without_any_value(text: str, tmp_path: Path) -> None:
    told = refusal(text)
    assert told.startswith(("not YAML: ", "not usable: "))
    assert PLANTED not in told
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SetupError, match=r"config\.yaml is not (YAML|usable): ") as caught:
        read_config(path)
    assert PLANTED not in str(caught.value)
