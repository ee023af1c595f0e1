"""What engine, precision and reduced decoding change of the answers: the table of docs/evaluate.md.

One service has an application for each variant, and `evaluate --against` compares each with the first. All have a
ResNet50 whose last layer is fitted to pictures of the same kind: with random weights all classes are about as probable,
and rounding alone decides which is the best one. The pictures are JPEGs of a camera's size with grain; each is one of
eight scenes with another one mixed in, up to nearly as much.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from loadtest.page.markdown import make_aligned_table
from serve_app.classifier.families import PREPROCESSING
from serve_app.classifier.images import decode_image
from serve_app.deployments.cores import usable_cores
from tests.benchmarks.report import ROOT, progress, run
from tests.benchmarks.service import SHIPPED, application_of, running_service, scratch_folder, write_config
from tests.fitted_model import CLASS_IDS, draw_picture
from tests.ports import free_port
from tests.service import own_environment

REFERENCE = "TensorFlow, float32"
VARIANTS: dict[str, dict[str, object]] = {
    REFERENCE: {"engine": "tensorflow"},
    "OpenVINO, float32": {"engine": "openvino"},
    "OpenVINO, bfloat16": {"engine": "openvino", "precision": "bfloat16"},
    "TensorFlow, float32, `reduced_decoding: false`": {"engine": "tensorflow", "reduced_decoding": False},
}
"""A further one is a further row of the table. bfloat16 needs a CPU that computes it."""
SCENES = len(CLASS_IDS)
SIZES_PX = ((1600, 1200), (3000, 2250))
"""Decoded at 1/2 and 1/4 of it: the shorter side stays above twice the 256 pixels to which it is scaled."""
GRAIN = 6
"""Standard deviation of the noise, of 255 levels."""
MOST_OF_ANOTHER = 0.45
FITTED_TO = 200
RIDGE = 0.1
LOGIT = 12
"""Of the right class, when the last layer is fitted."""
PATIENT = {"max_wait_s": 600, "deadline_s": 600}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.agreement", description=__doc__)
    parser.add_argument("--pictures", type=int, default=300, help="(default: %(default)s)")
    arguments = parser.parse_args()
    with scratch_folder() as folder:
        progress("fitting the network")
        files = fit_network(folder)
        progress(f"drawing {arguments.pictures} pictures")
        pictures = draw_pictures(folder / "pictures", arguments.pictures)
        progress("starting the service")
        environment = own_environment(folder) | {"SERVE_APP_CACHE_DIR": str(folder / "cache")}
        with running_service(config_of(folder, files), folder=folder, environment=environment) as service:
            url = service.target.urls[0]
            top1 = evaluate(url, pictures, prefix_of(REFERENCE))["top1"]
            print(f"{REFERENCE}: right about {100 * top1['share']:.2f} % of {top1['of']} pictures\n")
            print(make_table(compare(url, pictures)))
    return 0


def draw_jpeg(number: int, size: tuple[int, int]) -> tuple[bytes, int]:
    """Return a JPEG and which scene it is mostly; the same for the same number."""
    random = np.random.default_rng(number)
    scene, other = (int(one) for one in random.choice(SCENES, 2, replace=False))
    mixed = Image.blend(draw_picture(scene), draw_picture(other), float(random.uniform(0, MOST_OF_ANOTHER)))
    large = mixed.resize(size, Image.Resampling.BICUBIC)
    grain = GRAIN * random.standard_normal((large.height, large.width, 1), dtype=np.float32)
    pixels = np.clip(np.asarray(large, dtype=np.float32) + grain, 0, 255).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue(), scene


def draw_pictures(folder: Path, count: int) -> Path:
    """Write pictures, and their classes to val.txt; return the folder."""
    folder.mkdir()
    lines = []
    for number in range(count):
        data, scene = draw_jpeg(number, SIZES_PX[number % len(SIZES_PX)])
        (folder / f"{number:04}.jpg").write_bytes(data)
        lines.append(f"{number:04}.jpg {scene}\n")
    (folder / "val.txt").write_text("".join(lines))
    return folder


def fit_network(folder: Path) -> dict[str, str]:
    """Write a ResNet50 with a class for each scene, fitted to other pictures; return its files as keys of a config."""
    import keras

    subprocess.run([sys.executable, "-m", "tests.fitted_model", folder / "base"], cwd=ROOT, check=True)
    base = keras.applications.ResNet50(weights=None)
    base.load_weights(folder / "base/fitted.weights.h5")
    drawn = [draw_jpeg(1_000_000 + number, SIZES_PX[0]) for number in range(FITTED_TO)]
    features = _features(base, [data for data, _ in drawn])
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    scaled = (features - mean) / spread
    wanted = LOGIT * (np.eye(SCENES)[[scene for _, scene in drawn]] - 1 / SCENES)
    # Ridge regression in its dual form: there are fewer pictures than features.
    dual = np.linalg.solve(scaled @ scaled.T + RIDGE * FITTED_TO * np.eye(FITTED_TO), wanted)
    kernel = (scaled.T @ dual) / spread[:, np.newaxis]
    network = keras.applications.ResNet50(weights=None, classes=SCENES)
    network.set_weights([*base.get_weights()[:-2], kernel, -mean @ kernel])
    network.save_weights(folder / "scenes.weights.h5")
    (folder / "scenes.txt").write_text("\n".join(f"scene {number}" for number in range(SCENES)))
    return {"weights": str(folder / "scenes.weights.h5"), "labels": str(folder / "scenes.txt")}


def _features(network: Any, pictures: Sequence[bytes]) -> NDArray[np.float64]:
    import keras

    scaling = PREPROCESSING["resnet50"]
    inputs = np.stack([decode_image(data, 10**8) for data in pictures]).astype(np.float32) - np.array(scaling.mean)
    pooled = keras.Model(network.input, network.get_layer("avg_pool").output)
    return np.asarray(pooled.predict(inputs[..., ::-1], batch_size=8, verbose=0), dtype=np.float64)


def config_of(folder: Path, files: dict[str, str]) -> Path:
    """Write a config with an application for each variant, and return its path."""
    shipped = application_of(SHIPPED[0], "model")["args"]
    args = {**shipped, **files, **PATIENT, "threads": usable_cores(), "cache": {"store": "off"}}
    applications = {name_of(title): {"args": {**args, **changes}} for title, changes in VARIANTS.items()}
    path = write_config(folder, SHIPPED[0], applications)
    config = yaml.safe_load(path.read_text())
    config["http_options"]["port"] = free_port()
    path.write_text(yaml.safe_dump(config))
    return path


def name_of(title: str) -> str:
    """Return the name of a variant's application."""
    return f"variant-{list(VARIANTS).index(title)}"


def prefix_of(title: str) -> str:
    """Return where a variant is served."""
    return f"/{name_of(title)}/model"


def compare(url: str, pictures: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each variant but the reference, and what `evaluate` says of both."""
    for title in VARIANTS:
        if title != REFERENCE:
            second = ("--against", url, "--against-prefix", prefix_of(title))
            yield title, evaluate(url, pictures, prefix_of(REFERENCE), *second)


def evaluate(url: str, pictures: Path, prefix: str, *second: str) -> dict[str, Any]:
    """Return what `evaluate` prints."""
    progress(" ".join(["evaluate", prefix, *second]))
    asked = ["evaluate", str(pictures), "--server", url, "--prefix", prefix, *second, "--format", "json"]
    ended = subprocess.run(
        [sys.executable, "-m", "serve_app.client", *asked], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def make_table(found: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """Return the table of docs/evaluate.md."""
    head = [
        f"compared with {REFERENCE}",
        "pictures",
        "same best class (95 % interval)",
        "median",
        "p90",
        "p99",
        "largest",
    ]
    rows = []
    for title, values in found:
        top1, differences = values["top1"], values["difference_percentiles"]
        same = f"{100 * top1['share']:.2f} % ({100 * top1['low']:.2f}–{100 * top1['high']:.2f} %)"
        rows.append([title, str(top1["of"]), same, *(f"{differences[name]:.4f}" for name in head[3:])])
    return make_aligned_table(head, rows)


if __name__ == "__main__":
    run(main)
