"""Makes a prepared model: a network with its weights and labels, saved for one engine.

Run by `model_cache` as a process of its own, `python -m serve_app.classifier.engines.prepare FOLDER`, with the settings
as JSON on stdin, because Keras and the conversion leave 1-2 GB behind that no replica should carry. The last line on
stderr is the reason of a failure.
"""

import logging
import resource
import socket
import sys
from pathlib import Path

from serve_app.classifier.calibration import Calibrated, Calibration, read_calibration
from serve_app.classifier.choice import PassingError
from serve_app.classifier.engines.checks import Network, find_memory_fault
from serve_app.classifier.engines.keras_backend import choose_backend, import_keras
from serve_app.classifier.engines.labels import obtain_labels
from serve_app.classifier.families import Geometry
from serve_app.classifier.model_cache import (
    CANNOT_FETCH,
    CANNOT_PREPARE,
    CANNOT_PREPARE_NOW,
    MANIFEST,
    WARNING,
    Manifest,
    UnavailableError,
)
from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import SetupError

# Keras fetches without a time limit of its own; a network that swallows packets must not hold up a start for long.
DOWNLOAD_STALL_S = 10
# A file of a few kilobytes can describe a network of any size.
MOST_MEMORY_BYTES = 16 * 2**30
# Of the scaled shorter side: what ImageNet evaluations cut out of its centre, 224 of 256 pixels.
CENTRE = 0.875


def prepare(settings: ClassifierSettings, folder: Path) -> None:
    """Write the prepared model into `folder`, which must not exist yet. Raises SetupError."""
    network = _obtain_network(settings)
    facts = network.facts
    resize = settings.resize or round(facts.crop / CENTRE)
    if resize < facts.crop:
        raise SetupError(
            f"resize: {resize} is smaller than the {facts.crop} pixels that {facts.name} takes; raise it, or remove "
            "the key"
        )
    labels = obtain_labels(settings, facts.classes)
    is_int8 = settings.precision == "int8"
    calibration = read_calibration(settings, Geometry(resize, facts.crop), labels.names) if is_int8 else None
    folder.mkdir(parents=True)
    device = network.save(folder)
    calibrated = _make_int8(settings, calibration, folder) if calibration else None
    manifest = Manifest(
        name=facts.name,
        weights=facts.weights,
        weights_sha256=facts.weights_sha256,
        labels_from=labels.source,
        labels=labels.names,
        labels_are_missing=labels.are_missing,
        preprocessing=facts.preprocessing,
        resize=resize,
        crop=facts.crop,
        outputs=facts.outputs,
        device=device,
        calibrated=calibrated,
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())


def _obtain_network(settings: ClassifierSettings) -> Network:
    # Each reader imports its own frameworks: for an ONNX file TensorFlow is not loaded.
    if settings.is_onnx:
        from serve_app.classifier.engines import onnx_network

        return onnx_network.obtain_network(settings)
    if settings.engine == "jax":
        from serve_app.classifier.engines.jax_engine import require_device

        require_device()
    import_keras()
    from serve_app.classifier.engines import keras_network

    return keras_network.obtain_network(settings)


def _make_int8(settings: ClassifierSettings, calibration: Calibration, folder: Path) -> Calibrated:
    from serve_app.classifier.engines.int8_network import save_as_int8

    return save_as_int8(folder, calibration, threads=settings.thread_count, max_batch=settings.max_batch)


def mark_warnings() -> logging.Handler:
    """Let every warning of this package begin with WARNING on stderr; return what does so."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{WARNING}%(message)s"))
    logging.getLogger("serve_app").addHandler(handler)
    return handler


def main() -> int:
    """Prepare as stdin says; exit with one line on stderr, and the code of `_code_of`, when that fails."""
    mark_warnings()
    socket.setdefaulttimeout(DOWNLOAD_STALL_S)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    settings = ClassifierSettings.model_validate_json(sys.stdin.read())
    choose_backend(settings.engine)
    try:
        prepare(settings, Path(sys.argv[1]))
    except Exception as exc:
        no_memory = find_memory_fault(exc)  # whatever was blamed for it
        reason = PassingError(no_memory) if no_memory else exc
        if not isinstance(reason, SetupError):
            raise
        print(" ".join(str(reason).split()), file=sys.stderr)
        return _code_of(reason)
    return 0


def _code_of(exc: SetupError) -> int:
    if isinstance(exc, UnavailableError):
        return CANNOT_FETCH
    return CANNOT_PREPARE_NOW if isinstance(exc, PassingError) else CANNOT_PREPARE


if __name__ == "__main__":
    sys.exit(main())
