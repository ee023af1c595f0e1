"""Folders of a user's pictures: which files are taken, and what they are in the way of."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serve_app.classifier.families import Geometry
from serve_app.classifier.picture_folder import decode_pictures, find_pictures
from serve_app.classifier.settings import ClassifierSettings
from tests.serve_app.classifier.small_networks import SIDE, pictures


def write_pictures(folder: Path, count: int) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures(count)[0]):
        path = folder / f"{number:04}.png"
        Image.fromarray(picture).save(path)
        yield path


def found_in(folder: Path, most: int = 100) -> list[str]:
    return [str(Path(file.path).relative_to(folder)) for file in find_pictures(folder, most)]


def test_files_beside_pictures_take_no_place_of_them(tmp_path: Path) -> None:
    for path in write_pictures(tmp_path, 20):
        path.with_suffix(".json").write_text("{}")
        path.with_suffix(".txt").write_text("a label")
    assert found_in(tmp_path, 10) == [f"{number:04}.png" for number in np.linspace(0, 19, 10).astype(int)]


def test_hidden_files_and_folders_and_linked_folders_are_left_out(tmp_path: Path) -> None:
    for name in (".thumbnails", "class/.cache", "class/deeper", "elsewhere"):
        list(write_pictures(tmp_path / "folder" / name, 1))
    (tmp_path / "folder" / "elsewhere").rename(tmp_path / "elsewhere")
    (tmp_path / "folder" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder" / "LINK.JPEG").symlink_to(tmp_path / "elsewhere" / "0000.png")
    (tmp_path / "folder" / ".hidden.png").touch()
    assert found_in(tmp_path / "folder") == ["LINK.JPEG", "class/deeper/0000.png"]
    (tmp_path / ".folder").symlink_to(tmp_path / "folder")  # what the user names is taken, hidden and linked too
    assert found_in(tmp_path / ".folder") == ["LINK.JPEG", "class/deeper/0000.png"]


@pytest.mark.timeout(60)
def test_what_cannot_be_read_is_no_picture(tmp_path: Path) -> None:
    list(write_pictures(tmp_path, 1))
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")  # nobody writes into it: reading it would never end
    assert found_in(tmp_path) == ["0000.png"]
    assert found_in(tmp_path / ("x" * 300)) == []
    assert found_in(tmp_path / "0000.png") == []


def test_a_file_that_no_client_could_send_is_not_read(tmp_path: Path) -> None:
    sent, larger = write_pictures(tmp_path, 2)
    settings = ClassifierSettings(max_upload_bytes=sent.stat().st_size)
    with larger.open("ab") as file:  # 1 TiB that needs no room on the disk, and that no memory holds
        file.truncate(2**40)
    decoded = [path.name for path, _ in decode_pictures(find_pictures(tmp_path, 9), settings, Geometry(SIDE, SIDE))]
    assert decoded == [sent.name]
