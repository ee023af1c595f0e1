"""`model:`: networks by name and from files, on each engine, and what is refused."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from serve_app.classifier.api import build_model_api
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.engines import load_engine
from serve_app.classifier.engines.prepare import prepare
from serve_app.classifier.families import FAMILIES, PREPROCESSING
from serve_app.classifier.labels import read_labels
from serve_app.classifier.model_cache import MANIFEST, Manifest, find_or_prepare
from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import SetupError
from tests.conftest import THREADS
from tests.serve_app.classifier.small_networks import (
    COLOURS,
    SIDE,
    colour_probabilities,
    pictures,
    trained,
    write_onnx,
)

RANDOM_PICTURES, RANDOM_CLASSES = pictures(6, seed=9)


pytestmark = pytest.mark.usefixtures("tensorflow_threads")


def settings(**args: object) -> ClassifierSettings:
    return ClassifierSettings.model_validate({"threads": THREADS, **args})


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVE_APP_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tensorflow_threads: None) -> Path:  # noqa: ARG001 before it computes
    """A folder with a trained network as .keras and .h5, and what it says of RANDOM_PICTURES."""
    folder = tmp_path_factory.mktemp("models")
    network = trained()
    network.save(folder / "colours.keras")
    network.save(folder / "colours.h5")
    trained(scaling=False, softmax=False).save(folder / "logits.keras")
    np.save(folder / "expected.npy", network(RANDOM_PICTURES.astype(np.float32), training=False).numpy())
    return folder


def scores_of(folder: Path, wanted: ClassifierSettings) -> np.ndarray:
    """Return what an engine computes of a model that is prepared in this process."""
    prepare(wanted, folder / "prepared")
    engine = load_engine(wanted.engine, folder / "prepared", threads=THREADS, precision=wanted.precision)
    return np.asarray(engine.infer(RANDOM_PICTURES))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(("file", "engine"), [("colours.keras", "tensorflow"), ("colours.h5", "openvino")])
def test_a_trained_network_answers_as_the_bare_one(folder: Path, tmp_path: Path, file: str, engine: str) -> None:
    wanted = settings(model=str(folder / file), preprocessing="none", engine=engine)
    expected = np.load(folder / "expected.npy")
    assert np.abs(scores_of(tmp_path, wanted) - expected).max() < 1e-3
    assert (expected.argmax(axis=1) == RANDOM_CLASSES).all()
    manifest = Manifest.model_validate_json((tmp_path / "prepared" / MANIFEST).read_bytes())
    assert (manifest.name, manifest.crop, manifest.resize, manifest.outputs) == (file, 32, 37, "probabilities")
    assert manifest.labels == ["class_0000", "class_0001", "class_0002"]


def test_logits_become_probabilities(folder: Path) -> None:
    from serve_app.classifier.engines.keras_network import obtain_network

    wanted = settings(model=str(folder / "logits.keras"), preprocessing="scale_0_1")
    assert obtain_network(wanted).facts.outputs == "logits"
    with pytest.raises(SetupError, match=r"outputs: .* does not return probabilities"):
        obtain_network(wanted.model_copy(update={"outputs": "probabilities"}))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(
    "kind", [{}, {"channels_first": False}, {"batch": 1, "softmax": True}], ids=["NCHW", "NHWC", "one at a time"]
)
def test_an_onnx_file_is_computed_as_it_says(tmp_path: Path, engine: str, kind: dict[str, object]) -> None:
    model = write_onnx(tmp_path / "colours.onnx", **kind)  # type: ignore[arg-type]
    wanted = settings(model=str(model), preprocessing="scale_0_1", engine=engine)
    scores = scores_of(tmp_path, wanted)
    assert np.abs(scores - colour_probabilities(RANDOM_PICTURES)).max() < 1e-4


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", ["resnet50", "torchvision", "scale_minus1_1"])
def test_every_preprocessing_is_the_same_on_onnx_engines(tmp_path: Path, engine: str, name: str) -> None:
    model = write_onnx(tmp_path / "colours.onnx")
    wanted = settings(model=str(model), preprocessing=name, engine=engine)
    scaling = PREPROCESSING[wanted.preprocessing]  # type: ignore[index]
    pixels = (RANDOM_PICTURES - np.array(scaling.mean)) / np.array(scaling.scale)
    logits = 20 * (pixels[..., ::-1] if scaling.is_bgr else pixels).mean(axis=(1, 2))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = scores_of(tmp_path, wanted)
    assert np.abs(scores - powers / powers.sum(axis=1, keepdims=True)).max() < 1e-3


@pytest.mark.parametrize("mode", ["caffe", "torch", "tf"])
def test_preprocessings_are_those_of_keras(mode: str) -> None:
    import keras

    from serve_app.classifier.engines.keras_network import preprocess

    name = {"caffe": "resnet50", "torch": "torchvision", "tf": "scale_minus1_1"}[mode]
    given = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), dtype=np.uint8)
    expected = keras.applications.imagenet_utils.preprocess_input(given.astype(np.float32), mode=mode)
    assert np.abs(preprocess(given, PREPROCESSING[name]).numpy() - expected).max() < 1e-4  # type: ignore[index]


async def test_own_labels_come_back_over_http(tmp_path: Path) -> None:
    """Prepared in a process of its own, as every model is; for an ONNX file it needs no TensorFlow."""
    model, labels = write_onnx(tmp_path / "colours.onnx"), tmp_path / "colours.txt"
    labels.write_text("\n".join(COLOURS))
    args = {"engine": "onnxruntime", "preprocessing": "scale_0_1", "labels": str(labels), "resize": SIDE}
    wanted = settings(model=str(model), **args)
    classifier = await Classifier.load(wanted)
    transport = httpx.ASGITransport(build_model_api(classifier))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for picture, colour in zip(RANDOM_PICTURES, RANDOM_CLASSES, strict=True):
                file = io.BytesIO()
                Image.fromarray(picture).save(file, "PNG")
                answer = (await client.post("/predict?top_k=10", content=file.getvalue())).json()
                assert answer["prediction"] == COLOURS[colour]
                assert len(answer["predictions"]) == len(COLOURS)
            info = (await client.get("/")).json()
    finally:
        await classifier.close()
    assert (info["name"], info["classes"], info["labels"]) == ("colours.onnx", 3, "colours.txt")
    assert info["input"] == "RGB, shorter side scaled to 32, central 32×32"


def test_a_named_network_with_seven_classes_just_works(tmp_path: Path) -> None:
    import keras

    from serve_app.classifier.engines.keras_network import obtain_network

    weights = tmp_path / "seven.weights.h5"
    keras.applications.MobileNet(weights=None, classes=7, input_shape=(SIDE, SIDE, 3)).save_weights(weights)
    network = obtain_network(settings(model="mobilenet", weights=str(weights), crop=SIDE))
    assert (network.facts.classes, network.facts.name) == (7, "mobilenet")


def test_every_network_of_keras_applications_has_a_name() -> None:
    import keras

    found = {name for name in dir(keras.applications) if callable(getattr(keras.applications, name))}
    assert {family.function for family in FAMILIES.values()} == found


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"convnext_xlarge", "convnext_large", "efficientnet_b7"}))
def test_every_family_is_served_as_the_bare_network_computes_it(name: str) -> None:
    import keras

    from serve_app.classifier.engines.prepared_files import probe

    wanted = settings(model=name, weights="random")
    prepared = find_or_prepare(wanted)
    pictures = probe(prepared.manifest.crop)
    keras.utils.set_random_seed(0)
    bare = getattr(keras.applications, FAMILIES[name].function)(weights=None)
    scaling = PREPROCESSING[FAMILIES[name].preprocessing]
    pixels = (pictures - np.array(scaling.mean)) / np.array(scaling.scale)
    expected = bare((pixels[..., ::-1] if scaling.is_bgr else pixels).astype(np.float32), training=False).numpy()
    engine = load_engine("tensorflow", prepared.folder, threads=THREADS, precision="float32")
    assert np.abs(engine.infer(pictures) - expected).max() < 1e-3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"model": "resnet5"}, "did you mean resnet50"),
        ({"model": "m.onnx", "preprocessing": "none"}, "use engine: openvino or engine: onnxruntime"),
        ({"engine": "onnxruntime"}, r"engine: onnxruntime computes \.onnx files only"),
        (
            {"model": "m.onnx", "preprocessing": "none", "engine": "onnxruntime", "precision": "bfloat16"},
            "precision: bfloat16 needs engine: openvino; with onnxruntime use float32",
        ),
        ({"model": "m.keras"}, "preprocessing: missing; write what m.keras expects"),
        ({"model": "m.keras", "preprocessing": "none", "weights": "w.h5"}, "has weights of its own"),
        ({"model": "https://example.com/m.keras", "preprocessing": "none"}, "give model_sha256 too"),
        ({"resize": 100, "crop": 200}, "resize: 100 is smaller than crop: 200"),
    ],
)
def test_what_does_not_fit_together_is_refused(args: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(**args)


def test_folding_leaves_an_adapted_normalization_as_it_is() -> None:
    """Its statistics are weights of which it computes with copies."""
    import keras

    from serve_app.classifier.engines.folding import fold_batch_norm
    from serve_app.classifier.engines.keras_network import preprocess
    from serve_app.classifier.engines.prepared_files import probe

    network = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.Normalization(mean=None, variance=None),
            keras.layers.Conv2D(4, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    network.layers[0].adapt(pictures(32)[0].astype(np.float32))
    inputs = preprocess(probe(SIDE), PREPROCESSING["none"])
    folded = fold_batch_norm(network, inputs)
    images = RANDOM_PICTURES.astype(np.float32)
    difference = np.asarray(network(images, training=False)) - np.asarray(folded(images, training=False))
    assert np.abs(difference).max() < 1e-4


def test_a_network_from_a_file_is_folded(folder: Path) -> None:
    import keras

    from serve_app.classifier.engines.folding import fold_batch_norm
    from serve_app.classifier.engines.keras_network import preprocess
    from serve_app.classifier.engines.prepared_files import probe

    network = keras.models.load_model(folder / "colours.keras", compile=False)
    folded = fold_batch_norm(network, preprocess(probe(SIDE), PREPROCESSING["none"]))
    kinds = [type(one).__name__ for one in folded.layers]
    assert kinds.count("BatchNormalization") == 0


def test_a_network_that_folding_would_change_is_left_as_it_is_and_that_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from serve_app.classifier.engines import folding

    network, inputs = trained(), RANDOM_PICTURES.astype(np.float32)
    assert folding.fold_batch_norm(network, inputs) is not network
    assert caplog.text == ""
    fold = folding._folded_weights
    monkeypatch.setattr(folding, "_folded_weights", lambda *given: [1.5 * array for array in fold(*given)])
    assert folding.fold_batch_norm(network, inputs) is network
    assert "BatchNormalization is not folded: the outputs would differ by " in caplog.text


@pytest.mark.parametrize("kind", ["Functional", "Sequential"])
def test_a_network_that_is_a_layer_of_another_one_is_folded(tmp_path: Path, kind: str) -> None:
    """As fine-tuned networks are built: a base, called with training=False, and a new head."""
    import keras

    from serve_app.classifier.engines.folding import fold_batch_norm
    from serve_app.classifier.engines.keras_network import preprocess
    from serve_app.classifier.engines.prepared_files import probe

    base = trained()
    base = (
        keras.Model(base.inputs[0], base.layers[-2].input)
        if kind == "Functional"
        else keras.Sequential(base.layers[:-2])
    )
    pixels = keras.Input((SIDE, SIDE, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(base(pixels, training=False))
    keras.Model(pixels, keras.layers.Dense(2, activation="softmax")(pooled)).save(tmp_path / "nested.keras")
    network = keras.models.load_model(tmp_path / "nested.keras", compile=False)
    folded = fold_batch_norm(network, preprocess(probe(SIDE), PREPROCESSING["none"]))
    assert kind in {type(one).__name__ for one in network.layers}
    kinds = [[type(one).__name__ for one in each._flatten_layers()] for each in (network, folded)]
    assert [each.count("BatchNormalization") for each in kinds] == [2, 0]
    images = RANDOM_PICTURES.astype(np.float32)
    difference = np.asarray(network(images, training=False)) - np.asarray(folded(images, training=False))
    assert np.abs(difference).max() < 1e-4


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"0": "cat", "1": "dog"}', ["cat", "dog"]),
        ('{"0": ["n1", "cat"], "1": ["n2", "dog"]}', ["cat", "dog"]),
        ('[["n1", "cat"], ["n2", "dog"]]', ["cat", "dog"]),
        ('"ab"', None),
        ("[1, 2]", None),
    ],
)
def test_names_of_classes_are_those_that_a_json_file_says(tmp_path: Path, text: str, names: list[str] | None) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    if names is None:
        with pytest.raises(SetupError, match="neither Keras' JSON index"):
            read_labels(path, 2)
    else:
        assert read_labels(path, 2) == names


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_damaged_onnx_file_is_one_line(tmp_path: Path, engine: str) -> None:
    from serve_app.classifier.engines.onnx_network import obtain_network

    (tmp_path / "m.onnx").write_bytes(write_onnx(tmp_path / "whole.onnx").read_bytes()[:100])
    with pytest.raises(SetupError, match="cannot be computed by engine") as caught:
        obtain_network(settings(model=str(tmp_path / "m.onnx"), preprocessing="none", engine=engine))
    assert "\n" not in str(caught.value)


def test_networks_that_are_no_classifiers_of_pictures_are_refused(tmp_path: Path) -> None:
    import keras

    from serve_app.classifier.engines.keras_network import obtain_network

    made = {
        "grey": [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")],
        "oblong": [keras.Input((8, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")],
        "open": [keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Softmax()],
        "maps": [keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 1)],
        "labels": [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3, activation="sigmoid")],
        "one": [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(1, activation="sigmoid")],
    }
    words = {
        "grey": r"input of shape \(None, 8, 8, 1\)",
        "oblong": "only square inputs",
        "open": "set `crop`",
        "maps": "outputs of shape",
        "labels": "several labels",
        "one": "a score for one class only",
    }
    for name, layers in made.items():
        keras.Sequential(layers).save(tmp_path / f"{name}.keras")
        with pytest.raises(SetupError, match=words[name]):
            obtain_network(settings(model=str(tmp_path / f"{name}.keras"), preprocessing="scale_0_1"))


def test_labels_must_be_as_many_as_classes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("a\nb")
    wanted = settings(model=str(folder / "colours.keras"), preprocessing="none", labels=str(tmp_path / "two.txt"))
    with pytest.raises(SetupError, match="has 2 labels; this network has 3 classes"):
        prepare(wanted, tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()
