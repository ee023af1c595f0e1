"""What is known of the weights of each named network without Keras: compared with Keras, and asked before a start."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from serve_app.classifier.engines.weights_file import count_classes
from serve_app.classifier.families import FAMILIES
from serve_app.classifier.family_weights import FAMILY_WEIGHTS
from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.sources import find_source_faults

KINDS = ("mobilenet", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0")
"""Small ones, with last layers of both kinds."""
CLASSES = 7
pytestmark = pytest.mark.filterwarnings("ignore:`input_shape` is undefined:UserWarning")


def built(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[tuple[str, str]]]:
    """Return Keras' network, and name and URL of the files that Keras would have fetched for it."""
    import keras
    from keras.src.utils import file_utils

    asked: list[tuple[str, str]] = []

    def get_file(fname: str, origin: str, **_: object) -> str:
        asked.append((fname, origin))
        return fname

    monkeypatch.setattr(file_utils, "get_file", get_file)
    monkeypatch.setattr(keras.Model, "load_weights", lambda *_, **__: None)
    return getattr(keras.applications, FAMILIES[name].function)(weights="imagenet"), asked


def assert_is_as_in_keras(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, asked = built(name, monkeypatch)
    known = FAMILY_WEIGHTS[name]
    assert asked == [(known.file_name, known.url)]
    shapes = [tuple(weight.shape) for weight in network.weights]
    assert sum(len(shape) == 4 for shape in shapes) == known.kernels
    assert sorted(shape[-1] for shape in shapes if shape and shape[:-1] == known.head) == sorted([*known.beside, 1000])


def test_every_named_network_has_its_weights_described() -> None:
    assert FAMILY_WEIGHTS.keys() == FAMILIES.keys()
    assert len({known.url for known in FAMILY_WEIGHTS.values()}) == len(FAMILIES)


@pytest.mark.parametrize("name", KINDS)
def test_weights_are_described_and_fetched_as_in_keras(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_is_as_in_keras(name, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(KINDS)))
def test_those_of_every_other_network_are_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_is_as_in_keras(name, monkeypatch)


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return weights of a MobileNet for seven classes, as Keras writes them."""
    import keras

    path = tmp_path_factory.mktemp("weights") / "seven.weights.h5"
    keras.applications.MobileNet(weights=None, classes=CLASSES).save_weights(path)
    return path


def told(**args: object) -> list[str]:
    return [str(fault) for fault in find_source_faults(ClassifierSettings.model_validate(args))]


def test_classes_are_counted_without_keras(seven: Path) -> None:
    assert count_classes(seven, "mobilenet") == CLASSES
    assert told(model="mobilenet", weights=str(seven)) == []


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"mobilenet"}))
def test_weights_of_another_family_are_told_before_a_start(seven: Path, name: str) -> None:
    [fault] = told(model=name, weights=str(seven))
    assert fault.startswith(f"weights: {seven} cannot be used: it belongs to another network: 28 convolution kernels")


def test_labels_that_do_not_fit_the_weights_of_any_family_are_told_before_a_start(seven: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("label\n" * 8)
    [fault] = told(model="mobilenet", weights=str(seven), labels=str(labels))
    assert f"labels: {labels} has 8 labels; this network has 7 classes" in fault
    [fault] = told(model="mobilenet", weights=str(seven), labels="imagenet")
    assert "labels: imagenet has 1000 labels; this network has 7 classes; name a file" in fault


def test_an_array_without_a_shape_is_no_weight(tmp_path: Path) -> None:
    path = tmp_path / "null.h5"
    with h5py.File(path, "w") as file:
        file["nothing"] = h5py.Empty("f")
    [fault] = told(model="resnet50", weights=str(path))
    assert "belongs to another network: 0 convolution kernels instead of 53" in fault


def test_a_damaged_archive_of_weights_is_one_line(tmp_path: Path) -> None:
    arrays, path = tmp_path / "model.weights.h5", tmp_path / "damaged.keras"
    with h5py.File(arrays, "w") as file:
        file["kernel"] = np.random.default_rng(0).random((100, 100))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(arrays, arrays.name)
    whole, random, causes = path.read_bytes(), np.random.default_rng(1), set()
    for _ in range(100):
        damaged = bytearray(whole)
        for place in random.integers(40, len(whole) - 120, 3):
            damaged[place] ^= 1 + random.integers(255)
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"not a complete file of Keras weights|belongs to another network"
        ) as caught:
            count_classes(path, "resnet50")
        causes.add(type(caught.value.__cause__))
    assert zlib.error in causes


def test_imagenet_weights_that_cannot_be_fetched_are_told_for_every_family(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for name, known in FAMILY_WEIGHTS.items():
        [fault] = told(model=name, weights="imagenet")
        assert f"weights: the ImageNet weights cannot be fetched from {known.url}: Connection refused" in fault
    copy = tmp_path / "models" / FAMILY_WEIGHTS["nasnet_mobile"].file_name
    copy.parent.mkdir()
    copy.touch()
    [fault] = told(model="nasnet_mobile", weights="imagenet")
    assert fault.startswith("labels: ")
