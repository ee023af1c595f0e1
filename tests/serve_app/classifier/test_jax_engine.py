"""The engine `jax`, prepared where TensorFlow is not installed, and what it refuses. On the CPU: no GPU is needed."""

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
import pytest
from filelock import FileLock
from pydantic import ValidationError

from serve_app.classifier.choice import GENERATED, PassingError
from serve_app.classifier.engines import load_engine
from serve_app.classifier.machine import bound_of_gpu_memory
from serve_app.classifier.model_cache import (
    CANNOT_PREPARE,
    CANNOT_PREPARE_NOW,
    MANIFEST,
    Manifest,
    PreparedModel,
    converter_versions,
    find_or_prepare,
)
from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import SetupError
from tests.conftest import THREADS
from tests.serve_app.classifier.small_networks import SIDE, pictures, trained
from tests.serve_app.classifier.test_choice import break_package
from tests.service import ROOT

PICTURES, CLASSES = pictures(9, seed=9)

pytestmark = pytest.mark.usefixtures("tensorflow_threads")


def settings(model: Path, **args: object) -> ClassifierSettings:
    given = {"model": str(model), "preprocessing": "none", "engine": "jax", "threads": THREADS, **args}
    return ClassifierSettings.model_validate(given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tensorflow_threads: None) -> Path:  # noqa: ARG001 before it computes
    """A folder with a trained network, and what TensorFlow computes of PICTURES with it."""
    folder = tmp_path_factory.mktemp("models")
    network = trained()
    network.save(folder / "colours.keras")
    np.save(folder / "expected.npy", network(PICTURES.astype(np.float32), training=False).numpy())
    return folder


def run(python: Path, *options: str, said: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a Python that computes on the CPU, and say something to it."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run([python, *options], input=said, env=env, capture_output=True, text=True, check=False)


def prepare(wanted: ClassifierSettings, to: Path, python: Path) -> "subprocess.CompletedProcess[str]":
    """Prepare a model in a process of its own, as a start does."""
    return run(python, "-m", "serve_app.classifier.engines.prepare", str(to), said=wanted.model_dump_json())


FIND_OR_PREPARE = """
import sys
from serve_app.classifier.model_cache import find_or_prepare
from serve_app.classifier.settings import ClassifierSettings

print(find_or_prepare(ClassifierSettings.model_validate_json(sys.stdin.read())).model_dump_json())
"""


@pytest.fixture(scope="module")
def chosen(folder: Path, python_without_tensorflow: Path) -> PreparedModel:
    """What a start with `engine: auto` ends with."""
    wanted = settings(folder / "colours.keras", engine="auto", max_batch=4)
    cache = str(folder / "cache")
    done = run(
        python_without_tensorflow, "-c", FIND_OR_PREPARE, said=wanted.model_dump_json(), SERVE_APP_CACHE_DIR=cache
    )
    assert done.returncode == 0, done.stderr
    return PreparedModel.model_validate_json(done.stdout)


@pytest.fixture(scope="module")
def prepared(chosen: PreparedModel) -> Path:
    return chosen.folder


def test_without_tensorflow_the_reference_is_jax_in_the_highest_precision(folder: Path, chosen: PreparedModel) -> None:
    assert chosen.choice is not None
    assert chosen.choice.reference == "jax (highest)"
    [trial] = chosen.choice.trials
    assert (trial.engine, trial.precision, trial.refused) == ("jax", "float32", None)
    assert trial.images_per_s
    assert [(each.same_class, each.of) for each in trial.agreement] == [(GENERATED, GENERATED)]
    engine = load_engine("jax", chosen.folder, threads=THREADS, precision="highest", max_batch=4)
    assert np.abs(engine.infer(PICTURES) - np.load(folder / "expected.npy")).max() < 1e-5


def test_a_network_prepared_without_tensorflow_answers_as_tensorflow_does(folder: Path, prepared: Path) -> None:
    engine = load_engine("jax", prepared, threads=THREADS, precision="float32", max_batch=4)
    expected = np.load(folder / "expected.npy")
    assert (expected.argmax(axis=1) == CLASSES).all()
    for count in (1, 3, 4, 9):  # of one size, of several, and more than fit into one batch
        assert np.abs(engine.infer(PICTURES[:count]) - expected[:count]).max() < 1e-5
    assert (engine.device, engine.at_once, engine.has_tf32) == ("cpu", 1, False)
    manifest = Manifest.model_validate_json((prepared / MANIFEST).read_bytes())
    assert (manifest.name, manifest.crop, manifest.device) == ("colours.keras", SIDE, "cpu")


def test_what_is_computed_to_judge_a_network_is_computed_in_the_highest_precision(
    python_without_tensorflow: Path,
) -> None:
    """Told by JAX's own setting while a network is traced: a CPU computes alike with every setting."""
    program = """
import jax, keras, numpy
from serve_app.classifier.engines.folding import compute

class Told(keras.layers.Layer):
    def call(self, inputs):
        print("precision:", jax.config.jax_default_matmul_precision)
        return inputs

network = keras.Sequential([keras.Input((2,)), Told()])
print("built")
compute(network, numpy.ones((1, 2), numpy.float32))
"""
    done = run(python_without_tensorflow, "-c", program, KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr
    assert done.stdout.partition("built\n")[2] == "precision: highest\n"


def test_what_one_replica_has_compiled_the_next_one_finds(prepared: Path) -> None:
    from serve_app.classifier.engines.jax_engine import bucket_sizes

    def compiled() -> set[str]:
        load_engine("jax", prepared, threads=THREADS, precision="float32", max_batch=4)
        return {file.name for file in (prepared / "compiled").iterdir() if file.name.endswith("-cache")}

    first = compiled()
    assert len(first) >= len(bucket_sizes(4))
    assert compiled() == first


def test_what_is_compiled_while_a_model_is_prepared_is_found_where_it_is_moved_to(
    prepared: Path, tmp_path: Path
) -> None:
    """A trial of bfloat16 compiles in the folder in which the model is made; the replicas look in the finished one."""
    made, moved = tmp_path / "making", tmp_path / "moved"
    shutil.copytree(prepared, made, ignore=shutil.ignore_patterns("compiled*"))

    def compiled(folder: Path) -> set[str]:
        load_engine("jax", folder, threads=THREADS, precision="float32", max_batch=2)
        return {file.name for file in (folder / "compiled").iterdir() if file.name.endswith("-cache")}

    first = compiled(made)
    assert first
    made.rename(moved)
    assert compiled(moved) == first


def compile_under_locks(prepared: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, *, waits_for: str) -> None:
    """Load the engine while one of the two locks is held; then where that one cannot be written."""
    from serve_app.classifier.engines import jax_engine

    monkeypatch.setattr(jax_engine, "LOCK_TIMEOUT_S", 0)
    monkeypatch.setenv("SERVE_APP_CACHE_DIR", str(cache))
    folder = cache / "prepared"
    shutil.copytree(prepared, folder)
    locks = {"every network": cache / "compiling.lock", "this network": folder / "compiling.lock"}
    lock = locks.pop(waits_for)
    [other] = locks.values()

    def load() -> None:
        load_engine("jax", folder, threads=THREADS, precision="float32", max_batch=4)

    with FileLock(other):
        load()
    told = f"other processes have been compiling networks for 0 s; wait for them, or end them and delete {lock}$"
    with FileLock(lock), pytest.raises(SetupError, match=told):
        load()
    lock.unlink(missing_ok=True)
    lock.mkdir()  # no user can write a file there
    with pytest.raises(SetupError, match=f"cannot be kept in {lock}: Is a directory; set SERVE_APP_CACHE_DIR to a"):
        load()


def test_on_a_cpu_compiling_waits_for_those_who_compile_the_same_network(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_under_locks(prepared, tmp_path, monkeypatch, waits_for="this network")


@pytest.mark.long
def test_bfloat16_that_gives_wrong_answers_is_refused_by_name(folder: Path, python_without_tensorflow: Path) -> None:
    """Numbers of a hundred thousand, of whose differences bfloat16 keeps nothing."""
    import keras

    base = trained()
    layers = [
        keras.Input((SIDE, SIDE, 3)),
        keras.layers.Rescaling(1, offset=100_000),
        keras.layers.Rescaling(1, offset=-100_000),
        *base.layers,
    ]
    keras.Sequential(layers).save(folder / "far.keras")
    done = prepare(settings(folder / "far.keras", precision="bfloat16"), folder / "far", python_without_tensorflow)
    assert done.returncode == CANNOT_PREPARE, done.stderr
    told = done.stderr.strip().splitlines()[-1]
    assert told.startswith("precision: bfloat16 gives wrong answers (probabilities are off by up to ")
    assert told.endswith("with engine: jax on cpu; write `precision: float32`")


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (np.nan, "numbers that are not finite"),
        (np.inf, "numbers that are not finite"),
        (0.8, r"wrong answers \(probabilities are off by up to 0\.60\)"),
    ],
)
def test_bfloat16_that_is_no_rounding_is_a_fault_with_its_remedy(score: float, words: str) -> None:
    from serve_app.classifier.engines.jax_network import _check

    highest = np.full((2, 5), 0.2, np.float32)
    _check(highest + 0.01, highest, "a GPU")
    scores = highest.copy()
    scores[1, 3] = score
    fault = (
        rf"^precision: bfloat16 gives {words} of this network with engine: jax on a GPU; write `precision: float32`$"
    )
    with pytest.raises(SetupError, match=fault):
        _check(scores, highest, "a GPU")


@pytest.fixture
def called_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let JAX call the CPU a GPU: the engine does all that it does on one, and the CPU computes it."""
    import jax

    gpu = SimpleNamespace(platform="gpu", device_kind="a GPU", compute_capability="9.0")
    put = jax.device_put
    monkeypatch.setattr(jax, "local_devices", lambda: [gpu])
    monkeypatch.setattr(jax, "device_put", lambda arrays, _device: put(arrays))


@pytest.mark.usefixtures("called_a_gpu")
def test_batches_that_a_gpu_fills_up_and_computes_at_once_are_computed_as_one_alone(
    folder: Path, prepared: Path
) -> None:
    engine = load_engine("jax", prepared, threads=THREADS, precision="float32", max_batch=4)
    assert (engine.device, engine.at_once, engine.has_tf32) == ("a GPU", 2, True)
    expected, sizes = np.load(folder / "expected.npy"), [1, 3, 4, 9, 7] * 4
    with ThreadPoolExecutor(engine.at_once) as threads:
        computed = list(threads.map(lambda size: engine.infer(PICTURES[-size:]), sizes))
    for size, scores in zip(sizes, computed, strict=True):
        assert scores.shape == (size, expected.shape[1])
        assert np.abs(scores - expected[-size:]).max() < 1e-5


@pytest.mark.usefixtures("called_a_gpu")
def test_on_a_gpu_compiling_waits_for_those_who_compile_any_network(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_under_locks(prepared, tmp_path, monkeypatch, waits_for="every network")


@pytest.mark.usefixtures("called_a_gpu")
def test_a_gpu_without_memory_for_two_of_the_largest_batches_is_told_when_the_engine_is_loaded(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jax

    under_way = threading.Barrier(2)

    def compute(_: object, __: object, batch: np.ndarray) -> NoReturn:
        assert len(batch) == 4
        under_way.wait(60)
        raise jax.errors.JaxRuntimeError(NO_MEMORY)

    monkeypatch.setattr(jax.stages.Compiled, "__call__", compute)
    told = rf"^engine: jax cannot compute the network on a GPU: {NO_MEMORY}; lower max_batch, or the number of engines"
    with pytest.raises(SetupError, match=told):
        load_engine("jax", prepared, threads=THREADS, precision="float32", max_batch=4)


@pytest.mark.parametrize(
    ("capability", "has_tf32"), [("8.0", True), ("12.0", True), ("7.5", False), ("", False), (None, False)]
)
def test_tf32_is_told_of_gpus_since_compute_capability_8(capability: str | None, *, has_tf32: bool) -> None:
    from serve_app.classifier.engines.jax_engine import _has_tf32

    assert _has_tf32(SimpleNamespace(platform="gpu", compute_capability=capability)) == has_tf32
    assert not _has_tf32(SimpleNamespace(platform="cpu"))


@pytest.fixture
def without_bounds(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("users", "bound"),
    [
        ({}, {"XLA_CLIENT_MEM_FRACTION": "0.450"}),
        ({"XLA_CLIENT_MEM_FRACTION": "0.3"}, {}),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3"}, {}),
    ],
)
def test_a_gpus_memory_is_bound_unless_the_user_has_done_so(
    without_bounds: pytest.MonkeyPatch, users: dict[str, str], bound: dict[str, str]
) -> None:
    for name, value in users.items():
        without_bounds.setenv(name, value)
    assert bound_of_gpu_memory(0.5) == bound


def test_jax_takes_nine_tenths_of_a_replicas_share_of_a_gpu(tmp_path: Path, without_bounds: pytest.MonkeyPatch) -> None:
    """Both where the engine is loaded and where its model is prepared, which here tells it and ends."""
    bound = {"XLA_CLIENT_MEM_FRACTION": "0.450"}
    told = "{name: value for name, value in __import__('os').environ.items() if name.endswith('_MEM_FRACTION')}"
    program = f"""
from contextlib import suppress
from serve_app.classifier.engines.jax_engine import _find_device
from serve_app.errors import SetupError

with suppress(SetupError):  # this JAX has no CUDA
    _find_device(1, 0.5)
print({told})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(bound)
    without_bounds.setenv("SERVE_APP_CACHE_DIR", str(tmp_path / "cache"))
    break_package("jax", tmp_path / "first", without_bounds, says=f"' + str({told}) + '")
    with pytest.raises(RuntimeError, match=f"{bound}$"):
        find_or_prepare(ClassifierSettings(engine="jax", weights="random"), gpu_share=0.5)


@pytest.mark.parametrize(
    ("max_batch", "sizes"), [(1, [1]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8]), (128, [1, 2, 4, 8, 16, 32, 64, 128])]
)
def test_batches_are_compiled_in_a_few_sizes(max_batch: int, sizes: list[int]) -> None:
    from serve_app.classifier.engines.jax_engine import bucket_sizes

    assert bucket_sizes(max_batch) == sizes


@pytest.mark.parametrize(
    ("pictures", "on_cpu", "on_gpu"),
    [(1, [1], [1]), (3, [2, 1], [4]), (5, [4, 1], [8]), (8, [8], [8]), (19, [8, 8, 2, 1], [8, 8, 4])],
)
def test_a_cpu_computes_no_picture_too_many_and_a_gpu_one_batch(
    pictures: int, on_cpu: list[int], on_gpu: list[int]
) -> None:
    from serve_app.classifier.engines.jax_engine import bucket_sizes, split_batch

    sizes = bucket_sizes(8)
    assert split_batch(pictures, sizes, pads=False) == on_cpu
    assert split_batch(pictures, sizes, pads=True) == on_gpu


def test_versions_of_tensorflow_are_no_part_of_what_jax_computes(folder: Path) -> None:
    assert converter_versions(settings(folder / "colours.keras")).keys() == {"jax", "keras"}


def test_a_gpu_that_cannot_be_used_is_not_blamed_on_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras puts variables on the device before it fetches weights. This JAX has no CUDA, whatever the machine has."""
    monkeypatch.setenv("SERVE_APP_CACHE_DIR", str(tmp_path))
    wanted = ClassifierSettings(engine="jax", weights="auto")
    with pytest.raises(PassingError, match=r"^engine: jax finds no GPU, .*; install the extra gpu and NVIDIA's driver"):
        find_or_prepare(wanted, gpu_share=1.0)
    assert list(tmp_path.rglob("*unavailable.txt")) == []


NO_MEMORY = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."
FULL_DEVICE = f"""
import io, json, sys
import jax, keras
from serve_app.classifier.engines.prepare import main

jit = jax.jit

def fail(*_, **__):
    raise jax.errors.JaxRuntimeError({NO_MEMORY!r})

class OnceFullAfter:
    def __init__(self, networks):
        self.left = networks

    def __call__(self, function, **options):
        return jit(self.limited(function) if function.__module__.startswith("serve_app.") else function, **options)

    def limited(self, function):
        def computed(*given):
            self.left -= 1
            return fail() if self.left == -1 else function(*given)
        return computed

def prepare(settings):
    sys.argv[1] += "."
    sys.stdin = io.StringIO(json.dumps(settings))
    return main()

float32, bfloat16, imagenet = json.load(sys.stdin)
for networks in range(6):
    jax.jit = OnceFullAfter(networks)
    print(networks, "of float32:", prepare(float32))
jax.jit = OnceFullAfter(3)
print("3 of bfloat16:", prepare(bfloat16))
jax.numpy.asarray = fail
print("no weights:", prepare(float32), prepare(imagenet))
"""


def test_a_device_without_memory_is_told_in_one_line_wherever_that_is_noticed(
    tmp_path: Path, python_without_tensorflow: Path
) -> None:
    """Of float32, five networks are traced: one to judge it, two to compare the folded one, two that are kept."""
    import keras

    model = tmp_path / "few_layers.keras"
    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(2, 1, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, activation="softmax"),
    ]
    keras.Sequential(layers).save(model)
    asked = [
        settings(model),
        settings(model, precision="bfloat16"),
        ClassifierSettings(engine="jax", weights="imagenet"),
    ]
    said = f"[{','.join(each.model_dump_json() for each in asked)}]"
    made = str(tmp_path / "prepared")
    done = run(python_without_tensorflow, "-c", FULL_DEVICE, made, said=said, KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr
    now = CANNOT_PREPARE_NOW
    assert done.stdout.splitlines() == [
        *(f"{networks} of float32: {now}" for networks in range(5)), "5 of float32: 0",
        f"3 of bfloat16: {now}", f"no weights: {now} {now}",
    ]  # fmt: skip
    told = f"engine: jax has too little memory to prepare the model: {NO_MEMORY.rstrip('.')}; "
    told += "free the device's memory, or put fewer engines on one GPU"
    assert set(done.stderr.splitlines()) == {told}


def test_an_onnx_file_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"engine: jax computes no \.onnx file"):
        settings(Path("m.onnx"))
