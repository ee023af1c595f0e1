"""Where classes come from: folders, val.txt, CSV, synsets; and what is refused."""

import json
from pathlib import Path

import pytest

from serve_app.client.errors import UsageError
from serve_app.client.evaluate.classes import Classes, Synsets, read_synsets
from serve_app.client.evaluate.labels import NO_LABEL, NOT_THERE, find_labelled
from serve_app.client.items import Skipped

LABELS = ["tench", "goldfish", "great_white_shark", "crane", "drumstick", "crane"]
SYNSETS = {"n01440764": 0, "n01443537": 1, "n03126707": 5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two pictures of each of two classes, and one beside them."""
    folder = tmp_path / "photos"
    for name in ("tench/a.jpg", "tench/deep/b.jpg", "goldfish/a.jpg", "goldfish/c.png", "lone one.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def classes_of(folder: Path, labels: Path | None = None, skipped: Skipped | None = None) -> dict[str, str]:
    found = find_labelled(str(folder), labels, skipped or Skipped())
    assert {item.name for item in found.items} == set(found.classes)
    return {str(Path(name).relative_to(folder)): label for name, label in found.classes.items()}


def test_the_class_is_the_first_folder_and_a_picture_beside_them_has_none(folder: Path) -> None:
    skipped = Skipped()
    assert classes_of(folder, skipped=skipped) == {
        "tench/a.jpg": "tench",
        "tench/deep/b.jpg": "tench",
        "goldfish/a.jpg": "goldfish",
        "goldfish/c.png": "goldfish",
    }
    assert skipped.counts == {NO_LABEL: 1}


def test_val_txt_in_the_folder_is_read_and_what_is_on_one_side_only_is_counted(folder: Path) -> None:
    (folder / "val.txt").write_text(
        "# name class\ntench/a.jpg 0\nlone one.jpg 1\n./goldfish/c.png\tgreat white shark\nx.jpg 3\n"
    )
    skipped = Skipped()
    found = classes_of(folder, skipped=skipped)
    assert found == {"tench/a.jpg": "0", "lone one.jpg": "1", "goldfish/c.png": "great white shark"}
    assert skipped.counts == {NOT_THERE: 1, NO_LABEL: 2, "no picture": 1}


def test_a_line_is_a_comment_only_if_its_first_word_is_a_hash(folder: Path) -> None:
    for name in ("#1.jpg", "# 2.jpg"):
        (folder / name).write_bytes(b"")
    (folder / "val.txt").write_text("#\n # lone one.jpg 0\n#\tname\tclass\n#1.jpg 1\n./# 2.jpg 2\n")
    assert classes_of(folder) == {"#1.jpg": "1", "# 2.jpg": "2"}


@pytest.mark.parametrize("header", ["file,label", "\ufeffLabel,note,Path"])
def test_a_csv_names_its_columns(folder: Path, tmp_path: Path, header: str) -> None:
    row = {"file,label": '"lone one.jpg","great white shark"'}.get(header, '"great white shark",,"lone one.jpg"')
    (tmp_path / "truth.csv").write_text(f"{header}\r\n{row}\r\n", encoding="utf-8")
    assert classes_of(folder, tmp_path / "truth.csv") == {"lone one.jpg": "great white shark"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("truth.txt", b"a.jpg\n", "line 1: 'a.jpg' needs a picture and its class, such as `cat.jpg 281`"),
        ("truth.txt", b"", "names no picture"),
        ("truth.txt", b"tench/a.jpg 0\ntench/a.jpg 1\n", "line 2: tench/a.jpg was 0 before; keep one of them"),
        ("truth.txt", b"\xff\xfe\x00", "is not a UTF-8 text"),
        ("truth.txt", b"other.jpg 1\n", "names none of the 5 pictures"),
        ("truth.csv", b"a.jpg,1\nb.jpg,2\n", "must name the columns `file` and `label`; it has a.jpg, 1"),
        ("truth.csv", b"", "must name the columns `file` and `label`; it has none"),
        ("truth.csv", b"file,label\na.jpg\n", "line 2: needs a picture and its class"),
        ("missing.txt", None, "cannot be read: No such file or directory"),
    ],
)
def test_a_list_that_is_none_is_refused_in_one_line(
    folder: Path, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as refused:
        classes_of(folder, tmp_path / name)
    assert words in str(refused.value)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_pictures_without_any_class_name_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match=r"there is no val.txt; name a list with --labels FILE"):
        classes_of(tmp_path)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("tench", 0),
        ("Great White-Shark", 2),
        ("1", 1),
        ("5", 5),
        ("0" * 5000 + "5", 5),
        ("n01443537", 1),
        ("n03126707", 5),
        ("drumstick", 4),
    ],
)
def test_a_class_is_a_label_a_synset_or_an_index(name: str, index: int) -> None:
    assert Classes(LABELS, SYNSETS).find_all([name], "photos") == {name: index}


def test_a_label_that_is_a_number_is_the_label() -> None:
    assert Classes(["1", "0"], None).find_all(["0", "1"], "digits") == {"0": 1, "1": 0}


@pytest.mark.parametrize(
    ("names", "synsets", "words"),
    [
        (["tench", "golfish"], None, "unknown classes: golfish (nearest: goldfish); a class is a label of the service"),
        (["6"], None, "unknown classes: 6; a class is a label of the service such as tench, an index from 0 to 5"),
        (["crane"], SYNSETS, "crane is the label of the classes 3, 5; name each by its index, or by its synset"),
        (["n01440764", "n01443537"], None, "n01440764 and 1 more: synsets of ImageNet; the service knows labels only"),
        (["n99999999"], SYNSETS, "unknown classes: n99999999"),
        ([f"zz{n}" for n in range(9)], None, "zz4, 4 more; a class is"),
        (["9" * 5000], None, f"unknown classes: {'9' * 80}…; a class is"),
    ],
)
def test_an_unknown_class_names_the_nearest_or_the_file_that_is_needed(
    names: list[str], synsets: Synsets | None, words: str
) -> None:
    with pytest.raises(UsageError) as refused:
        Classes(LABELS, synsets).find_all(names, "the folders of photos")
    assert str(refused.value).startswith("the folders of photos: ")
    assert words in str(refused.value)


def test_synsets_are_read_from_keras_index(tmp_path: Path) -> None:
    path = tmp_path / "imagenet_class_index.json"
    path.write_text(json.dumps({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}))
    assert read_synsets(path) == {"n01440764": 0, "n01443537": 1}


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", "7", '{"0": []}', '{"0": "tench"}', '{"0": ["tench", "x"]}', '{"x": ["n01440764"]}',
        "[" * 100_000, f'{{"{"9" * 5000}": ["n01440764"]}}',
    ],
    ids=lambda content: content[:20],
)  # fmt: skip
def test_a_file_without_synsets_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(UsageError, match=r"--synsets .*index.json: is not like Keras' imagenet_class_index.json"):
        read_synsets(tmp_path / "index.json")
