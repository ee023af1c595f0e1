"""Files of labels that cannot be used, told in one line before a model is prepared."""

from pathlib import Path

import pytest

from serve_app.classifier.labels import read_labels
from serve_app.classifier.sources import LABELS_URL
from serve_app.errors import SetupError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r'["cat", "d\ud800og"]', "the label of class 1 has half of a character"),
        (r'{"0": ["n1", "\udc00"], "1": "dog"}', "the label of class 0 has half of a character"),
        ("[" * 200_000, "is JSON that is nested too deeply for labels"),
        ('{"0":' * 200_000, "is JSON that is nested too deeply for labels"),
    ],
)
def test_labels_that_json_can_hold_and_an_answer_cannot_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(SetupError, match=rf"^labels: {path}:? {words}.*; name a file with one label for each class"):
        read_labels(path, 2)


def test_a_character_in_two_halves_is_one(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(r'["\ud83d\udc31", "dog"]')
    assert read_labels(path, 2) == ["🐱", "dog"]


def test_the_imagenet_labels_are_asked_for_where_keras_fetches_them() -> None:
    from keras.src.applications import imagenet_utils

    assert imagenet_utils.CLASS_INDEX_PATH == LABELS_URL
