"""What a model file may be: which layers, how large, and of one file only. Most is told without TensorFlow."""

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from serve_app.classifier.engines.model_file import check_model_file
from serve_app.classifier.engines.onnx_network import obtain_network
from serve_app.classifier.engines.prepare import prepare
from serve_app.classifier.engines.weights_file import datasets_in
from serve_app.classifier.model_cache import pin_files
from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.sources import find_source_faults
from serve_app.errors import SetupError
from tests.serve_app.classifier.small_networks import colour_probabilities, pictures, write_onnx

REFUSED_LAYERS = {
    "FlaxLayer": "runs functions",
    "InputSpec": "no layer",
    "IntegerLookup": "reads a vocabulary from a file",
    "JaxLayer": "runs functions",
    "Lambda": "runs bytecode",
    "Layer": "abstract",
    "StringLookup": "reads a vocabulary from a file",
    "TFSMLayer": "runs another program",
    "TextVectorization": "reads a vocabulary from a file",
    "TorchModuleWrapper": "runs pickles",
    "Wrapper": "abstract",
}


def as_keras_file(path: Path, config: object, *, further: str | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", "{}")
        if further:
            archive.writestr(further, "x")
    return path


def layer(name: str, module: str | None = "keras.layers", **further: object) -> dict[str, object]:
    part = {"class_name": name, "module": module, "config": {}, **further}
    return {"class_name": "Sequential", "module": "keras", "config": {"layers": [part]}}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (layer("Lambda"), "'Lambda', which is not accepted"),
        (layer("TFSMLayer"), "'TFSMLayer'"),
        (layer("TorchModuleWrapper"), "'TorchModuleWrapper'"),
        (layer("StringLookup"), "'StringLookup'"),
        (layer("Dense", module="os"), "'Dense' of os"),
        (layer("function", module="builtins", config="eval"), "'function'"),
        (layer("function", module="keras.utils", config="get_file"), "'function'"),
        (layer("__lambda__", module=None), "'__lambda__'"),
        (layer("Mine", registered_name="package>Mine"), "'Mine'"),
        (layer("Dense", registered_name="package>Mine"), "'Dense'"),
        (layer("deserialize", module="keras.initializers"), "'deserialize'"),
        (layer(["Dense"]), "list"),  # type: ignore[arg-type]
    ],
)
def test_a_keras_file_that_may_run_code_is_refused_by_name(tmp_path: Path, config: object, words: str) -> None:
    for path in (as_keras_file(tmp_path / "m.keras", config), tmp_path / "m.h5"):
        if path.suffix == ".h5":
            with h5py.File(path, "w") as file:
                file.attrs["model_config"] = json.dumps(config)
        with pytest.raises(SetupError, match=words):
            check_model_file(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_damaged_architecture_is_one_line(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "number.h5", "w") as file:
        file.attrs["model_config"] = 7
    large = as_keras_file(tmp_path / "large.keras", "x" * 33_000_000)
    with zipfile.ZipFile(as_keras_file(tmp_path / "twice.keras", layer("Dense")), "a") as archive:
        archive.writestr("config.json", json.dumps(layer("Dense")))
    as_keras_file(tmp_path / "m.keras", layer("Lambda")).rename(tmp_path / "m.keras?x.hdf5")
    for name, words in {
        "number.h5": "not readable JSON",
        large.name: "more than 32,000,000 bytes",
        "twice.keras": "a file twice",
        "m.keras?x.hdf5": "not a readable .hdf5 file",
    }.items():
        with pytest.raises(SetupError, match=words):
            check_model_file(tmp_path / name)


def test_a_real_lambda_layer_is_refused_before_keras_reads_it(tmp_path: Path) -> None:
    import keras

    network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x), keras.layers.Flatten()])
    network.save(tmp_path / "lambda.keras")
    with pytest.raises(SetupError, match="'Lambda'"):
        check_model_file(tmp_path / "lambda.keras")


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "garbage.keras").write_bytes(b"not a zip" * 100)
    (tmp_path / "garbage.h5").write_bytes(b"not hdf5" * 100)
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["kernel"] = [1.0]
    as_keras_file(tmp_path / "pickle.keras", layer("Dense"), further="model.weights.npz")
    for name, words in {
        "garbage.keras": "not a readable .keras file",
        "garbage.h5": "not a readable HDF5 file",
        "weights.h5": "has weights only, no architecture",
        "pickle.keras": "contains model.weights.npz",
        "missing.keras": "cannot be read",
    }.items():
        with pytest.raises(SetupError, match=words):
            check_model_file(tmp_path / name)


def test_a_file_that_is_too_large_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(2_000_000_001)  # sparse
    with pytest.raises(SetupError, match="has 2,000,000,001 bytes"):
        check_model_file(tmp_path / "large.onnx")


def test_every_layer_of_keras_is_accepted_or_refused_with_a_reason(tmp_path: Path) -> None:
    """A Keras version with another layer fails here: look whether it runs code or reads files, then list it."""
    import keras

    classes = {found for name in dir(keras.layers) if isinstance(found := getattr(keras.layers, name), type)}
    exported = {
        found.__name__ if hasattr(keras.layers, found.__name__) else keras.saving.get_registered_name(found)
        for found in classes
    }
    for name in exported | {"GroupQueryAttention", "GroupedQueryAttention"}:
        path = as_keras_file(tmp_path / "m.keras", layer(name))
        if name in REFUSED_LAYERS:
            with pytest.raises(SetupError, match=f"'{name}', which is not accepted"):
                check_model_file(path)
        else:
            check_model_file(path)


def made_hdf5(path: Path, kind: str, other: Path) -> Path:
    """Write a file with an architecture, a part of whose arrays is in `other`."""
    with h5py.File(other, "w") as file:
        file["secret"] = np.arange(4, dtype=np.float32)
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(layer("Dense"))
        group = file.create_group("layers/dense")
        group["kernel"] = np.ones((2, 2), np.float32)
        group["again"] = file["layers"]  # a group within itself
        group["soft"] = h5py.SoftLink("/layers/dense/kernel")
        if kind == "link":
            group["bias"] = h5py.ExternalLink(str(other), "/secret")
        elif kind == "external":
            group.create_dataset("bias", (4,), np.float32, external=[(str(other), 0, 16)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4,), np.float32)
            layout[:] = h5py.VirtualSource(str(other), "secret", (4,))
            group.create_virtual_dataset("bias", layout)
    return path


@pytest.mark.parametrize("kind", ["link", "external", "virtual"])
def test_arrays_in_another_file_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    other = tmp_path / "other.h5"
    path = made_hdf5(tmp_path / "m.h5", kind, other)
    archive = tmp_path / "m.keras"
    as_keras_file(archive, layer("Dense"))
    with zipfile.ZipFile(archive, "a") as file:
        file.write(path, "model.weights.h5")
    for model in (path, archive):
        with pytest.raises(SetupError, match=rf"'layers/dense/bias' .* another file: '{other}'"):
            check_model_file(model)
        wanted = ClassifierSettings(model="mobilenet_v2", weights=str(model))
        [fault] = find_source_faults(wanted)
        assert fault.key == "weights"
        assert "'layers/dense/bias' " in fault.what
        assert str(other) in fault.what


def test_arrays_of_the_file_itself_are_accepted(tmp_path: Path) -> None:
    path = made_hdf5(tmp_path / "m.h5", "none", tmp_path / "other.h5")
    check_model_file(path)
    with h5py.File(path) as file:
        assert [(name, array.shape) for name, array in datasets_in(file)] == [("layers/dense/kernel", (2, 2))]


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("place", ["other.bin", "../other.bin", "{folder}/other.bin"])
def test_onnx_weights_in_another_file_are_refused_wherever_it_is(tmp_path: Path, engine: str, place: str) -> None:
    import onnx

    (tmp_path / "below").mkdir()
    path = write_onnx(tmp_path / "below" / "m.onnx")
    model = onnx.load(path)
    gain = next(tensor for tensor in model.graph.initializer if tensor.name == "gain")
    for folder in (tmp_path, path.parent):
        (folder / "other.bin").write_bytes(gain.raw_data)
    gain.ClearField("raw_data")
    gain.data_location = onnx.TensorProto.EXTERNAL
    gain.external_data.add(key="location", value=place.format(folder=tmp_path))
    path.write_bytes(model.SerializeToString())
    wanted = ClassifierSettings.model_validate({"model": str(path), "preprocessing": "scale_0_1", "engine": engine})
    with pytest.raises(SetupError, match=r"with its weights in the same file\?"):
        prepare(wanted, tmp_path / "prepared")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("integers", ["uint8", "int32", "int64"])
def test_an_onnx_input_of_integers_gets_whole_pixels_and_nothing_else(
    tmp_path: Path, engine: str, integers: str
) -> None:
    path, (given, _) = write_onnx(tmp_path / "m.onnx", integers=integers, softmax=True), pictures(3)
    args = {"model": str(path), "engine": engine}
    network = obtain_network(ClassifierSettings.model_validate({**args, "preprocessing": "none"}))
    assert network.reader.infer(given) == pytest.approx(colour_probabilities(given), abs=1e-4)
    for scaling in ("resnet50", "torchvision", "scale_0_1", "scale_minus1_1"):
        with pytest.raises(
            SetupError, match=rf"^preprocessing: {scaling} .* takes {integers}; write `preprocessing: none`"
        ):
            obtain_network(ClassifierSettings.model_validate({**args, "preprocessing": scaling}))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("integers", ["int8", "bool"])
def test_an_onnx_input_that_cannot_hold_a_pixel_is_refused(tmp_path: Path, engine: str, integers: str) -> None:
    path = write_onnx(tmp_path / "m.onnx", integers=integers)
    wanted = ClassifierSettings.model_validate({"model": str(path), "engine": engine, "preprocessing": "none"})
    with pytest.raises(SetupError, match=rf"^model: .* an input of {integers}; export it"):
        obtain_network(wanted)


def test_a_model_is_prepared_from_the_file_that_it_is_named_for(tmp_path: Path) -> None:
    model, labels = write_onnx(tmp_path / "m.onnx"), tmp_path / "names.txt"
    labels.write_text("a\nb\nc")
    args = {"model": str(model), "preprocessing": "scale_0_1", "engine": "onnxruntime", "labels": str(labels)}
    wanted = pin_files(ClassifierSettings.model_validate(args))
    prepare(wanted, tmp_path / "prepared")
    labels.write_text("a\nb\nd")
    with pytest.raises(SetupError, match=r"names\.txt changed while the model was prepared from it"):
        prepare(wanted, tmp_path / "other labels")
    write_onnx(model, softmax=True)
    with pytest.raises(SetupError, match=r"m\.onnx changed while the model was prepared from it"):
        prepare(wanted, tmp_path / "other model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "names.txt", "prepared"]
