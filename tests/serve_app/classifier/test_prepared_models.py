"""Weights and labels from every kind of source, and the prepared model that comes of them."""

import hashlib
import http.server
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydantic import ValidationError

from serve_app.classifier import model_cache
from serve_app.classifier.engines.prepare import mark_warnings
from serve_app.classifier.machine import has_bfloat16
from serve_app.classifier.model_cache import Manifest, PreparedModel, find_engine_fault, find_or_prepare
from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.sources import find_source_faults
from serve_app.errors import SetupError
from tests.conftest import THREADS, Fitted
from tests.patience import HANG_S
from tests.serve_app.classifier.small_networks import COLOURS, write_onnx

if TYPE_CHECKING:
    from serve_app.classifier.engines.keras_network import KerasNetwork

pytestmark = pytest.mark.usefixtures("tensorflow_threads")


def settings(**args: object) -> ClassifierSettings:
    return ClassifierSettings.model_validate(args)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, fitted: Fitted) -> Iterator[tuple[str, Path]]:
    """A folder served on loopback: the fitted weights and labels whole, and /half/… of which only half arrives."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(fitted.weights, folder)
    shutil.copy(fitted.labels, folder)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/half/"):
                data = (folder / self.path.removeprefix("/half/")).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *given: Handler(*given, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


@pytest.fixture
def new_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache folder in which nothing has been fetched or prepared."""
    monkeypatch.setenv("SERVE_APP_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def prepared(fitted: Fitted) -> PreparedModel:
    return find_or_prepare(settings(**fitted.args))


def test_the_engine_computes_what_the_bare_keras_model_computes(fitted: Fitted, prepared: PreparedModel) -> None:
    """Same pixels in, same probabilities out, although BatchNorm is folded away and the batch is another."""
    from serve_app.classifier.engines import load_engine

    engine = load_engine("tensorflow", prepared.folder, threads=THREADS, precision="float32")
    assert np.allclose(engine.infer(fitted.crops), fitted.expected, atol=1e-4)
    for row, picture in zip(fitted.expected, fitted.crops, strict=True):
        assert np.allclose(engine.infer(picture[np.newaxis]), row, atol=1e-4)


def test_batches_that_tensorflow_computes_at_once_are_computed_as_one_alone(
    fitted: Fitted, prepared: PreparedModel
) -> None:
    from serve_app.classifier.engines import load_engine

    engine = load_engine("tensorflow", prepared.folder, threads=THREADS, precision="float32")
    assert engine.at_once == 2
    sizes = [1, 4, 2, 3] * 2
    together = threading.Barrier(engine.at_once)

    def infer(size: int) -> np.ndarray:
        together.wait(HANG_S)
        return engine.infer(fitted.crops[-size:])

    with ThreadPoolExecutor(engine.at_once) as threads:
        computed = list(threads.map(infer, sizes))
    for size, scores in zip(sizes, computed, strict=True):
        assert np.allclose(scores, fitted.expected[-size:], atol=1e-4)


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [
        pytest.param("float32", 1e-4, marks=pytest.mark.long),  # quick: the service of running/test_serve.py
        pytest.param("bfloat16", 0.3, marks=pytest.mark.skipif(not has_bfloat16(), reason="the processor has none")),
    ],
)
def test_a_replicas_tensorflow_gives_the_same_names(
    fitted: Fitted, prepared: PreparedModel, precision: str, tolerance: float
) -> None:
    """In a process of its own, as in a replica: kernels keep the weights, and one precision is that of all."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        runs = process.submit(_computed_twice, prepared.folder, fitted.crops, precision).result()
    for scores in runs:
        assert np.abs(scores - fitted.expected).max() < tolerance
        assert (scores.argmax(axis=1) == fitted.expected.argmax(axis=1)).all()
    if precision == "bfloat16":
        assert np.abs(runs[0] - fitted.expected).max() > 1e-4


def _computed_twice(folder: Path, pictures: np.ndarray, precision: str) -> list[np.ndarray]:
    from serve_app.classifier.engines import load_engine

    del os.environ["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"]
    engine = load_engine("tensorflow", folder, threads=THREADS, precision=precision)
    assert os.environ["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"] == "1"
    return [engine.infer(pictures), engine.infer(pictures)]


@pytest.mark.parametrize(
    ("flags", "key"), [("avx2 avx512f avx512_bf16", None), ("amx_bf16", None), ("avx512f avx512vl", "precision")]
)
def test_tensorflow_is_refused_bfloat16_by_name_where_the_processor_has_none(
    tmp_path: Path, flags: str, key: str | None
) -> None:
    processor = tmp_path / "cpuinfo"
    processor.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    fault = find_engine_fault(settings(precision="bfloat16"), processor)
    assert (fault and fault.key) == key
    assert fault is None or "this processor has no bfloat16" in str(fault)
    assert find_engine_fault(settings(precision="float32"), processor) is None
    assert find_engine_fault(settings(engine="openvino", precision="bfloat16"), processor) is None


@pytest.fixture(scope="module")
def from_url(
    served: tuple[str, Path],
    fitted: Fitted,
    tmp_path_factory: pytest.TempPathFactory,
    tensorflow_threads: None,  # noqa: ARG001 before it computes
) -> "KerasNetwork":
    """The fitted network, fetched to be prepared for OpenVINO."""
    from serve_app.classifier.engines.keras_network import obtain_network

    url, _ = served
    wanted = settings(engine="openvino", weights=f"{url}/fitted.weights.h5", weights_sha256=sha256(fitted.weights))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVE_APP_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        return obtain_network(wanted)


@pytest.fixture(scope="module")
def openvino_folder(from_url: "KerasNetwork", tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openvino")
    from_url.save(folder)
    return folder


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-2), ("bfloat16", 0.3)])
def test_openvino_gives_the_same_names(fitted: Fitted, openvino_folder: Path, precision: str, tolerance: float) -> None:
    from serve_app.classifier.engines import load_engine

    engine = load_engine("openvino", openvino_folder, threads=THREADS, precision=precision)
    scores = engine.infer(fitted.crops)
    assert np.abs(scores - fitted.expected).max() < tolerance
    assert (scores.argmax(axis=1) == fitted.expected.argmax(axis=1)).all()


def test_a_damaged_prepared_model_is_made_anew(new_cache: Path, tmp_path: Path) -> None:
    """It is as a disk that was full leaves it."""
    model = write_onnx(tmp_path / "colours.onnx")
    wanted = settings(model=str(model), preprocessing="scale_0_1", engine="onnxruntime")
    damaged = new_cache / "models" / model_cache._fingerprint(wanted)
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("{")
    found = find_or_prepare(wanted)
    assert found.folder == damaged
    assert (damaged / "model.onnx").is_file()
    assert len(found.manifest.labels) == len(COLOURS)


def test_a_prepared_model_is_found_again(fitted: Fitted, prepared: PreparedModel) -> None:
    made = prepared.folder.stat().st_mtime_ns
    again = find_or_prepare(settings(**fitted.args))
    assert again == prepared
    assert again.folder.stat().st_mtime_ns == made


def test_auto_with_unusable_labels_is_an_error_and_no_reason_for_random_weights(new_cache: Path) -> None:
    with pytest.raises(SetupError, match=r"labels: /no/such\.json cannot be read"):
        find_or_prepare(settings(weights="auto", labels="/no/such.json"))
    assert not (new_cache / "models" / "imagenet-unavailable.txt").exists()


def start_two_replicas(caplog: pytest.LogCaptureFixture) -> PreparedModel:
    """Let two prepare `weights: auto` at once, and return what both found."""
    caplog.set_level("INFO")
    with ThreadPoolExecutor(2) as starting:
        found, other = starting.map(find_or_prepare, [settings(model="mobilenet", weights="auto")] * 2)
    assert found == other
    assert caplog.text.count("preparing the model (weights: imagenet)") == 1
    assert found.manifest.weights == "random"
    assert found.manifest.labels_from == "placeholder"
    assert "cannot be downloaded" in (found.note or "")
    return found


def test_auto_falls_back_to_random_weights_and_says_why(new_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two replicas start at once: one looks for the ImageNet weights, the other waits for it. Random ones are there."""
    labels = [f"class_{index:04d}" for index in range(1000)]
    manifest = Manifest(
        name="mobilenet", weights="random", weights_sha256=None, labels_from="placeholder", labels=labels
    )
    random = new_cache / "models" / model_cache._fingerprint(settings(model="mobilenet", weights="random"))
    random.mkdir(parents=True)
    (random / "manifest.json").write_text(manifest.model_dump_json())
    assert start_two_replicas(caplog).folder == random


def test_a_replica_takes_the_weights_of_the_others_and_a_later_start_looks_again(new_cache: Path) -> None:
    """All models are in the cache: the question is which one is taken."""
    wanted, models = settings(weights="auto"), new_cache / "models"

    def put(weights: str) -> None:
        folder = models / model_cache._fingerprint(settings(weights=weights))
        folder.mkdir(parents=True)
        labels = [f"class_{index:04d}" for index in range(1000)]
        manifest = Manifest(
            name="resnet50", weights=weights, weights_sha256=None, labels_from="placeholder", labels=labels
        )
        (folder / "manifest.json").write_text(manifest.model_dump_json())

    put("random")
    name = model_cache._fingerprint(settings(weights="imagenet"))
    failure = models / f"{name}-unavailable.txt"
    failure.write_text("there was no internet")
    put("imagenet")
    os.utime(failure, (0, 0))
    for _ in range(2):
        replica = find_or_prepare(wanted)
        assert (replica.manifest.weights, replica.note) == ("random", "there was no internet")
    assert find_or_prepare(wanted, is_start=True).manifest.weights == "imagenet"
    assert find_or_prepare(wanted).manifest.weights == "imagenet"


def test_only_a_later_start_looks_again_for_labels_that_could_not_be_fetched(new_cache: Path, tmp_path: Path) -> None:
    """The file holds no network: only preparing the model again tells."""
    model = tmp_path / "my.onnx"
    model.write_bytes(b"not onnx")
    wanted = settings(model=str(model), preprocessing="none", engine="onnxruntime")
    folder = new_cache / "models" / model_cache._fingerprint(wanted)
    folder.mkdir(parents=True)
    labels = [f"class_{index:04d}" for index in range(1000)]
    facts = {"name": "my.onnx", "weights": "my.onnx", "weights_sha256": None, "labels_from": "placeholder"}
    manifest = Manifest.model_validate({**facts, "labels": labels, "labels_are_missing": True})
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    assert find_or_prepare(wanted, is_start=True).manifest == manifest
    os.utime(folder / "manifest.json", (0, 0))
    assert find_or_prepare(wanted).manifest == manifest
    with pytest.raises(SetupError, match="cannot be computed by engine"):
        find_or_prepare(wanted, is_start=True)


@pytest.mark.long
@pytest.mark.usefixtures("new_cache")
def test_auto_prepares_random_weights_once(caplog: pytest.LogCaptureFixture) -> None:
    found = start_two_replicas(caplog)
    assert caplog.text.count("preparing the model (weights: random)") == 1
    assert (found.folder / "saved_model").is_dir()


def test_imagenet_weights_or_labels_that_cannot_be_had_are_an_error() -> None:
    from serve_app.classifier.engines.keras_network import obtain_network
    from serve_app.classifier.engines.labels import obtain_labels

    with pytest.raises(SetupError, match="ImageNet weights cannot be downloaded"):
        obtain_network(settings(model="mobilenet", weights="imagenet"))
    with pytest.raises(SetupError, match="ImageNet labels cannot be downloaded"):
        obtain_labels(settings(weights="imagenet"), 1000)


def test_weights_come_from_a_url_with_a_checksum(fitted: Fitted, from_url: "KerasNetwork") -> None:
    facts = from_url.facts
    assert (facts.weights, facts.weights_sha256) == ("fitted.weights.h5", sha256(fitted.weights))
    assert from_url.network.count_params() == 25_636_712


@pytest.mark.usefixtures("new_cache")
def test_labels_come_from_a_url_with_a_checksum(served: tuple[str, Path], fitted: Fitted) -> None:
    from serve_app.classifier.engines.labels import Labels, obtain_labels

    url, _ = served
    wanted = settings(labels=f"{url}/labels.json", labels_sha256=sha256(fitted.labels))
    assert obtain_labels(wanted, 1000) == Labels("labels.json", [f"thing {index}" for index in range(1000)])


@pytest.mark.usefixtures("new_cache")
def test_a_download_that_breaks_off_or_has_another_checksum_is_refused(
    served: tuple[str, Path], fitted: Fitted
) -> None:
    from serve_app.classifier.engines.keras_network import obtain_network
    from serve_app.classifier.engines.labels import obtain_labels

    url, _ = served
    with pytest.raises(SetupError, match=r"weights: .*cannot be fetched"):
        obtain_network(settings(weights=f"{url}/half/fitted.weights.h5", weights_sha256=sha256(fitted.weights)))
    with pytest.raises(SetupError, match=r"weights: .*SHA-256 is not 0000"):
        obtain_network(settings(weights=f"{url}/fitted.weights.h5", weights_sha256="0" * 64))
    with pytest.raises(SetupError, match=r"labels: .*cannot be fetched"):
        obtain_labels(settings(labels=f"{url}/nothing.json", labels_sha256="0" * 64), 1000)


def test_a_file_with_another_checksum_is_refused_before_anything_is_computed(fitted: Fitted) -> None:
    with pytest.raises(SetupError, match="weights_sha256 says 0000"):
        find_or_prepare(settings(weights=str(fitted.weights), weights_sha256="0" * 64))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SetupError, match=r"weights: /no/such\.h5 cannot be read"):
        find_or_prepare(settings(weights="/no/such.h5"))


def test_an_error_shows_no_password_of_a_url() -> None:
    from serve_app.classifier.engines.keras_network import obtain_network

    with pytest.raises(SetupError) as caught:
        obtain_network(settings(weights="http://me:secret@127.0.0.1:9/w.h5?key=hidden", weights_sha256="0" * 64))
    assert "http://127.0.0.1:9/w.h5" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Skipping nested container")
@pytest.mark.parametrize("damage", ["truncated", "garbage", "another network"])
def test_a_file_that_is_not_a_resnet50s_weights_is_refused(fitted: Fitted, tmp_path: Path, damage: str) -> None:
    from serve_app.classifier.engines.keras_network import obtain_network

    path = tmp_path / "bad.weights.h5"
    if damage == "truncated":
        path.write_bytes(fitted.weights.read_bytes()[:50_000_000])
    elif damage == "garbage":
        path.write_bytes(b"not hdf5" * 1000)
    else:
        import keras

        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(path)
    with pytest.raises(SetupError, match="not a readable Keras weights file of resnet50"):
        obtain_network(settings(weights=str(path)))


@pytest.mark.parametrize("suffix", ["index.json", "list.json", "lines.txt"])
def test_labels_come_in_three_forms(tmp_path: Path, suffix: str) -> None:
    from serve_app.classifier.engines.labels import Labels, obtain_labels

    names = [f"name {index}" for index in range(1000)]
    texts = {
        "index.json": json.dumps({str(index): [f"n{index:08}", name] for index, name in enumerate(names)}),
        "list.json": json.dumps(names),
        "lines.txt": "\n".join(names),
    }
    (tmp_path / suffix).write_text(texts[suffix])
    assert obtain_labels(settings(labels=str(tmp_path / suffix)), 1000) == Labels(suffix, names)


@pytest.mark.parametrize(("text", "words"), [("a\nb", "2 labels"), ("{", "neither"), ('{"0": 1}', "neither")])
def test_unusable_labels_are_refused(tmp_path: Path, text: str, words: str) -> None:
    from serve_app.classifier.engines.labels import obtain_labels

    path = tmp_path / ("labels.json" if "{" in text else "labels.txt")
    path.write_text(text)
    with pytest.raises(SetupError, match=words):
        obtain_labels(settings(labels=str(path)), 1000)


def test_random_is_a_word_for_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `labels` it is a file's name: told before a start where there is none, else a part of the fingerprint."""
    from serve_app.classifier.engines.labels import Labels, obtain_labels

    monkeypatch.chdir(tmp_path)
    wanted = settings(weights="random", labels="random")
    [fault] = find_source_faults(wanted)
    assert str(fault).startswith("labels: random cannot be read: No such file or directory; correct the path, or write")
    fingerprints = set()
    for name in ("first", "other"):
        names = [f"{name} {index}" for index in range(1000)]
        Path("random").write_text("\n".join(names))
        assert list(find_source_faults(wanted)) == []
        assert obtain_labels(wanted, 1000) == Labels("random", names)
        fingerprints.add(model_cache._fingerprint(wanted))
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"weights": "https://example.com/w.h5"}, "weights_sha256"),
        ({"labels": "https://example.com/l.json"}, "labels_sha256"),
        ({"weights_sha256": "0" * 64}, "belongs to a file or URL"),
        ({"weights": "w.h5", "weights_sha256": "123"}, "pattern"),
        ({"precision": "bfloat16", "engine": "onnxruntime"}, "bfloat16 needs engine: openvino; with onnx"),
        ({"threads": 0}, "greater than or equal to 1"),
        ({"weights": "model.bin"}, "weights: must be auto, imagenet, random, or a file whose name ends in .h5"),
        ({"thread": 2}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_sense_are_refused(args: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(**args)


def test_warnings_while_a_model_is_prepared_are_logged_by_who_lets_it_be_prepared(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    handler = mark_warnings()
    try:
        logging.getLogger("serve_app.classifier.engines.folding").warning("not folded")
    finally:
        logging.getLogger("serve_app").removeHandler(handler)
    caplog.clear()
    model_cache._log_warnings(f"of a library\n{capsys.readouterr().err}")
    assert caplog.messages == ["preparing the model: not folded"]
