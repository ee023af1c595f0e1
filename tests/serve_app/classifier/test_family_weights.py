"""What is known of the weights of each named network without Keras: compared with Keras, and asked before a start."""

import hashlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from serve_app.classifier.engines.weights_file import count_classes, has_second_scaling
from serve_app.classifier.families import FAMILIES
from serve_app.classifier.family_weights import FAMILY_WEIGHTS
from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.sources import find_source_faults

KINDS = ("mobilenet", "efficientnet_b0")
"""Small ones, with last layers of both kinds."""
CLASSES = 7
SIDE = 64
MEAN, VARIANCE, DEVIATION = [0.485, 0.456, 0.406], [0.23, 0.22, 0.24], [0.229, 0.224, 0.225]
pytestmark = pytest.mark.filterwarnings("ignore:`input_shape` is undefined:UserWarning")


Asked = list[tuple[str, str, str]]


@contextmanager
def fetching_nothing() -> Iterator[Asked]:
    """Yield name, URL and MD5 of the files that Keras would have fetched; it gives its networks these weights instead.

    They are random, but for those of Normalization, which are MEAN and VARIANCE.
    """
    import keras
    from keras.src.utils import file_utils

    asked: Asked = []

    def get_file(fname: str, origin: str, file_hash: str = "", **_: object) -> str:
        asked.append((fname, origin, file_hash))
        return fname

    def load_weights(network: Any, *_: object, **__: object) -> None:
        for layer in network.layers:
            if isinstance(layer, keras.layers.Normalization) and layer.weights:
                layer.set_weights([np.array(MEAN), np.array(VARIANCE), np.array(0)])
                layer.finalize_state()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_utils, "get_file", get_file)
        patch.setattr(keras.Model, "load_weights", load_weights)
        yield asked


@pytest.fixture
def asked(tensorflow_threads: None) -> Iterator[Asked]:  # noqa: ARG001 before it computes
    with fetching_nothing() as asked:
        yield asked


def imagenets(name: str, weights: str | None = "imagenet") -> Any:
    import keras

    return getattr(keras.applications, FAMILIES[name].function)(weights=weights)


def assert_is_as_in_keras(name: str, asked: Asked) -> None:
    network = imagenets(name)
    known = FAMILY_WEIGHTS[name]
    assert [(file_name, url) for file_name, url, _ in asked] == [(known.file_name, known.url)]
    assert known.md5 in ("", asked[0][2])
    shapes = [tuple(weight.shape) for weight in network.weights]
    assert sum(len(shape) == 4 for shape in shapes) == known.kernels
    assert sorted(shape[-1] for shape in shapes if shape and shape[:-1] == known.head) == sorted([*known.beside, 1000])


def test_every_named_network_has_its_weights_described() -> None:
    assert FAMILY_WEIGHTS.keys() == FAMILIES.keys()
    assert len({known.url for known in FAMILY_WEIGHTS.values()}) == len(FAMILIES)


@pytest.mark.parametrize("name", KINDS)
def test_weights_are_described_and_fetched_as_in_keras(name: str, asked: Asked) -> None:
    assert_is_as_in_keras(name, asked)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(KINDS)))
def test_those_of_every_other_network_are_too(name: str, asked: Asked) -> None:
    assert_is_as_in_keras(name, asked)


@pytest.mark.long
@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_keras_builds_the_same_network_without_weights_but_for_a_second_scaling(name: str) -> None:
    each = (imagenets(name), imagenets(name, weights=None))
    kinds, others = ([type(layer).__name__ for layer in network.layers] for network in each)
    if FAMILY_WEIGHTS[name].has_second_scaling:
        others.insert(others.index("Normalization") + 1, "Rescaling")
    assert kinds == others


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory, tensorflow_threads: None) -> Path:  # noqa: ARG001 before it computes
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


def scaled(network: Any) -> np.ndarray:
    """Return what the first convolution of an EfficientNet gets of a picture whose pixels are 100, 150, 200."""
    import keras

    picture = np.broadcast_to(np.array([100, 150, 200], np.float32), (1, *network.input_shape[1:]))
    first = keras.Model(network.inputs[0], network.get_layer("stem_conv_pad").input)
    pixel: np.ndarray = np.asarray(first(picture))[0, 0, 0]
    return pixel


def as_for_imagenet() -> np.ndarray:
    pixel, mean, variance, deviation = map(np.array, ([100, 150, 200], MEAN, VARIANCE, DEVIATION))
    return np.asarray((pixel / 255 - mean) / np.sqrt(variance) / np.sqrt(deviation))


@pytest.mark.usefixtures("asked")
def test_an_efficientnet_with_imagenets_weights_scales_pixels_alike_at_every_size() -> None:
    from serve_app.classifier.engines.keras_network import _with_imagenet

    network = _with_imagenet(ClassifierSettings(model="efficientnet_b0", weights="imagenet", crop=SIDE))
    assert network.input_shape == (None, SIDE, SIDE, 3)
    assert np.allclose(scaled(network), as_for_imagenet(), atol=1e-5)


@pytest.mark.usefixtures("asked")
def test_a_network_whose_function_leaves_its_input_open_gets_one_of_its_own_size() -> None:
    from serve_app.classifier.engines.keras_network import obtain_network

    found = obtain_network(ClassifierSettings(model="mobilenet_v3_small", weights="imagenet"))
    assert found.network.input_shape == (None, 224, 224, 3)
    assert (found.facts.crop, found.facts.weights) == (224, "imagenet")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tensorflow_threads: None) -> Path:  # noqa: ARG001 before it computes
    """Weights of EfficientNetB0 as Keras builds it for ImageNet's weights."""
    path = tmp_path_factory.mktemp("efficientnet") / "saved.weights.h5"
    with fetching_nothing():
        imagenets("efficientnet_b0").save_weights(path)
    return path


def without_layers(saved: Path, *names: str) -> str:
    """Return weights whose file does not list some layers, which have none."""
    path = saved.with_name(f"without_{len(names)}.weights.h5")
    shutil.copyfile(saved, path)
    with h5py.File(path, "r+") as file:
        for name in names:
            del file[f"layers/{name}"]
    return str(path)


def test_weights_of_an_efficientnet_are_computed_with_the_scaling_layers_of_their_network(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve_app.classifier.engines.keras_network import _with_weights

    name = "efficientnet_b0"
    network = _with_weights(ClassifierSettings(model=name, weights=str(saved), crop=SIDE), saved)
    assert np.allclose(scaled(network), as_for_imagenet(), atol=1e-5)
    of_no_weights = Path(without_layers(saved, "rescaling_1"))
    assert not has_second_scaling(of_no_weights, name)
    # Keras' own file is older than the layer.
    md5 = hashlib.md5(of_no_weights.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(FAMILY_WEIGHTS, name, replace(FAMILY_WEIGHTS[name], md5=md5))
    assert has_second_scaling(of_no_weights, name)


def test_weights_of_an_efficientnet_that_do_not_tell_its_scaling_are_refused(saved: Path) -> None:
    path = without_layers(saved, "rescaling", "rescaling_1")
    [fault] = told(model="efficientnet_b0", weights=path)
    assert fault.startswith(f"weights: {path} cannot be used: it does not list the scaling layers of its network")
    assert told(model="efficientnet_b0", weights=str(saved)) == []
