"""`evaluate --resume`: which answers of an earlier run count, and which files are refused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.client.__main__ import main
from tests.known_service import KnownService, known_service

LABELS = [f"thing {index}" for index in range(10)]
Ended = tuple[int, dict[str, Any], str]
Evaluate = Callable[..., Ended]


@pytest.fixture
def known() -> Iterator[KnownService]:
    """Return a service that takes every picture for the class 0."""
    with known_service() as known:
        known.labels = LABELS
        yield known


@pytest.fixture
def evaluate(
    known: KnownService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Evaluate:
    """Return what evaluates three pictures of the class 0 and one of the class 1 into answers.jsonl."""
    monkeypatch.chdir(tmp_path)
    for name in ("0/a.jpg", "0/b.jpg", "0/c.jpg", "1/d.jpg"):
        picture = Path("photos", name)
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(b"\xff\xd8\xff" + name.encode())

    def run(*arguments: str) -> Ended:
        given = ["evaluate", "photos", "--output", "answers.jsonl", "--server", known.url, "--format", "json"]
        code = main([*given, *arguments])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else {}, printed.err

    return run


def answers() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]


def write(*lines: dict[str, Any]) -> str:
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    Path("answers.jsonl").write_text(text)
    return text


def test_answers_of_other_weights_in_a_file_of_the_same_name_are_not_continued(
    known: KnownService, evaluate: Evaluate
) -> None:
    assert evaluate()[0] == 0
    assert {tuple(line["fingerprints"]) for line in answers()} == {("known",)}
    kept = write(*answers()[:2])
    known.fingerprint = "other"
    code, found, err = evaluate("--resume")
    assert (code, found, Path("answers.jsonl").read_text()) == (2, {}, kept)
    assert err.endswith(
        f"error: --output answers.jsonl: photos/0/a.jpg: is of another model than {known.url} serves now; "
        "choose another --output\n"
    )
    known.fingerprint = "known"
    code, found, err = evaluate("--resume")
    assert (code, found["pictures"], len(known.requests("POST", "/model/predict"))) == (0, 4, 4 + 2), err


def test_a_line_of_another_model_is_refused_also_if_its_picture_is_gone(evaluate: Evaluate) -> None:
    evaluate()
    first, *others = answers()
    write(*others, first | {"file": "photos/gone.jpg", "fingerprints": ["other"]})
    code, _, err = evaluate("--resume")
    assert code == 2
    assert "answers.jsonl: photos/gone.jpg: is of another model" in err


@pytest.mark.parametrize("told", [None, "known"])
def test_answers_without_the_fingerprint_of_their_model_are_refused(
    known: KnownService, evaluate: Evaluate, told: str | None
) -> None:
    known.fingerprint = None
    code, found, err = evaluate()
    assert (code, found["pictures"]) == (0, 4), err
    assert "fingerprints" not in answers()[0]  # as of the plain client
    known.fingerprint = told
    code, _, err = evaluate("--resume")
    assert code == 2
    assert "answers.jsonl: photos/0/a.jpg: has no fingerprint of the model that answered" in err
    assert "choose another --output" in err


def test_both_services_are_recognised(evaluate: Evaluate) -> None:
    with known_service() as second:
        second.labels, second.fingerprint = LABELS, "second"
        assert evaluate("--against", second.url)[0] == 0
        assert [line["fingerprints"] for line in answers()] == [["known", "second"]] * 4
        second.fingerprint = "third"
        code, _, err = evaluate("--against", second.url, "--resume")
        assert code == 2
        assert f"is of another model than {second.url} serves now" in err


def test_a_picture_that_is_in_the_file_twice_counts_once_with_its_first_answer(evaluate: Evaluate) -> None:
    evaluate()
    lines = answers()
    later = [
        line | {"prediction": line["prediction"] | {"predictions": [{"class_id": 1, "score": 1}] * 5}} for line in lines
    ]
    write(*lines, *later)
    code, found, err = evaluate("--resume")
    assert code == 0, err
    assert (found["top1"]["count"], found["top1"]["of"]) == (3, 4)
    assert "4 of 4 are already in answers.jsonl" in err


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction": "cat"},
        {"prediction": {"model": [1], "predictions": []}},
        {"prediction": {"prediction": "a", "score": 0.5, "predictions": 5}},
        {"prediction": 0},
        {"against": 7},
        {"fingerprints": "known"},
        {"fingerprints": [1]},
        {"fingerprints": ["known", "other"]},
    ],
)
def test_a_line_of_another_shape_was_not_written_by_this_client(evaluate: Evaluate, changes: dict[str, Any]) -> None:
    evaluate()
    first, *others = answers()
    write(*others, first | changes)
    code, _, err = evaluate("--resume")
    assert code == 2
    assert err.endswith(
        "error: --output answers.jsonl, line 4: was not written by this client as jsonl; choose another --output\n"
    )


def test_a_line_that_is_nested_too_deeply_was_not_written_by_this_client(evaluate: Evaluate) -> None:
    Path("answers.jsonl").write_text("[" * 100_000 + "\n")
    code, _, err = evaluate("--resume")
    assert code == 2
    assert "line 1: was not written by this client" in err


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([5] * 5, "a prediction has no class_id and score"),
        ([{"class_id": 1e999, "score": 1}] * 5, "a prediction has no class_id and score"),
        ([{"class_id": 10, "score": 1}] * 5, "a prediction names no class, or one beyond the 10 labels"),
        ([{"class_id": 0, "score": 1}], "has fewer than 5 classes"),
    ],
)
def test_a_line_without_classes_of_the_service_is_named(evaluate: Evaluate, found: list[Any], words: str) -> None:
    evaluate()
    first, *others = answers()
    write(first | {"prediction": first["prediction"] | {"predictions": found}}, *others)
    code, _, err = evaluate("--resume")
    assert code == 2
    assert f"error: --output answers.jsonl: photos/0/a.jpg: {words}" in err
    assert len(err.splitlines()) == 1
