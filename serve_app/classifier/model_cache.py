"""Prepared models on disk. A replica loads a prepared model; preparing one (Keras, seconds, 2 GB) is a child process.

Each prepared model is a folder named by the fingerprint of everything that went into it, with `manifest.json` and
the engine's files. What `engine: auto` and `precision: auto` were decided by is a folder with `choice.json` (`choice`).
Called by `Classifier.load`; the child is `engines.prepare`.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from serve_app.classifier.calibration import MOST_PICTURES, Calibrated, find_admission_fault
from serve_app.classifier.child import run_child
from serve_app.classifier.choice import MOST_OF_A_FOLDER, Choice, PassingError, candidates, choose, settled
from serve_app.classifier.families import Geometry, PreprocessingName
from serve_app.classifier.images import DECODING
from serve_app.classifier.machine import PROCESSOR, bound_of_gpu_memory, describe_processor, find_gpus, has_bfloat16
from serve_app.classifier.picture_folder import FindPictures, find_pictures
from serve_app.classifier.settings import SOURCE_WORDS, ClassifierSettings, is_url, shown
from serve_app.errors import Fault, SetupError
from serve_app.places import CACHE_REMEDY, cache_dir, why_not_writable

logger = logging.getLogger(__name__)

# Part of every fingerprint; raise it when `engines.prepare` starts to write something else.
RECIPE = 6
PREPARE_TIMEOUT_S = 1500
LOCK_TIMEOUT_S = PREPARE_TIMEOUT_S + 60
# How long the starts of a service go on with random weights (`weights: auto`) or placeholder labels (`labels: auto`)
# before one looks for those of ImageNet again, and without an engine that failed for a reason that may pass
# (`engine: auto`).
AUTO_RETRY_S = 3600
MANIFEST = "manifest.json"
CHOICE = "choice.json"
CUDA_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
# Exit code of `engines.prepare` for a SetupError; any other failure is a fault of ours and shown whole.
CANNOT_PREPARE = 3
# The same, when all that failed was to fetch the ImageNet files; `auto` has an answer to that.
CANNOT_FETCH = 4
# The same, for a reason that may pass, such as a GPU that cannot be used.
CANNOT_PREPARE_NOW = 5
WARNING = "serve_app warns: "
"""What begins a line on stderr of `engines.prepare` that this process is to log: the others are those of libraries."""
_INT8_MAKER = "nncf"
_OTHER_WAYS = {
    "model": "name a network such as `model: resnet50`",
    "weights": "write `weights: auto`",
    "labels": "write `labels: auto`",
}


class UnavailableError(PassingError):
    """The ImageNet weights or labels cannot be fetched."""


class Manifest(BaseModel):
    """What a prepared model is; written by `engines.prepare`, told to clients by GET /model/."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    weights: str
    weights_sha256: str | None
    labels_from: str
    labels: list[str]
    labels_are_missing: bool = False
    """Whether ImageNet's names belong here and could not be fetched."""
    preprocessing: PreprocessingName = "resnet50"
    resize: int = 256
    crop: int = 224
    outputs: Literal["probabilities", "logits"] = "probabilities"
    """What the network returned; the prepared one always returns probabilities."""
    device: str = "cpu"
    """For what the files of the engine were made: a GPU's name, or cpu."""
    calibrated: Calibrated | None = None
    """How it was made for `precision: int8`."""

    @property
    def geometry(self) -> Geometry:
        """Return how a picture becomes the network's input."""
        return Geometry(self.resize, self.crop)

    def find_admission_fault(self, min_agreement: float) -> Fault | None:
        """Return why it may not serve, if it is one of int8 and differs too much from float32."""
        fault = find_admission_fault(self.calibrated, min_agreement) if self.calibrated else None
        if fault and self.weights == "random":
            return replace(fault, what=f"{fault.what}; its weights are random, so agreement means nothing")
        return fault


class PreparedModel(BaseModel):
    """A prepared model's folder and manifest; `note` says why `auto` did not end with ImageNet weights."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    manifest: Manifest
    fingerprint: str
    choice: Choice | None = None
    """What `engine: auto` or `precision: auto` was decided by."""
    note: str | None = None
    gpu_share: float = 0.0
    """Of a GPU, for each engine that computes it."""

    def settle(self, settings: ClassifierSettings) -> ClassifierSettings:
        """Return `settings` with engine and precision of this model in place of `auto`."""
        return settled(settings, self.choice.chosen.engine, self.choice.chosen.precision) if self.choice else settings


def find_or_prepare(settings: ClassifierSettings, *, gpu_share: float = 0.0, is_start: bool = False) -> PreparedModel:
    """Return the prepared model that `settings` ask for, preparing it first if it is not in the cache.

    It is for an engine that has so much of a GPU. Safe when several replicas start at once: one prepares, the others
    wait. When a service starts (`is_start`), what `auto` was decided by is made anew if it is old and an engine failed
    for a reason that may pass, or the ImageNet weights or labels could not be had; a replica takes what the others
    have. Raises SetupError.
    """
    if fault := find_engine_fault(settings):
        raise SetupError(fault)
    cache = _Cache(cache_dir() / "models", gpu_share, is_start=is_start)
    _make_folder(cache.folder)
    find_or_make = cache.find_or_make_auto if _may_have_imagenet(settings) else cache.find_or_choose
    found = find_or_make(pin_files(settings))
    return found.model_copy(update={"gpu_share": gpu_share})


def find_engine_fault(settings: ClassifierSettings, processor: Path = PROCESSOR) -> Fault | None:
    """Return why the engine cannot be used: it is an extra that is not installed, or the processor lacks bfloat16.

    That of `auto` is why the last of its candidates cannot be used, if none can.
    """
    if settings.is_auto:
        faults = [find_engine_fault(each, processor) for each in candidates(settings)]
        if not faults:
            what = f"no engine computes {shown(settings.model)} with precision: {settings.precision}"
            return Fault("engine", what, "write `precision: auto`")
        return None if None in faults else faults[-1]
    engine = settings.engine
    for package in _packages(settings):
        if find_spec(package) is None and package == _INT8_MAKER:
            return Fault("precision", f"{package} is not installed, which makes int8 of a network", _install("int8"))
        if find_spec(package) is None:
            for_engine = "" if package == engine else f", which prepares models for engine: {engine}"
            return Fault("engine", f"{package} is not installed{for_engine}", _install(engine))
    if (engine, settings.precision) == ("tensorflow", "bfloat16") and not has_bfloat16(processor):
        return Fault(
            "precision", "this processor has no bfloat16, which tensorflow needs", "write `precision: float32`"
        )
    return None


def _install(extra: str) -> str:
    return f"install it: .venv/bin/uv pip install -c requirements.lock -e '.[{extra}]'"


def find_prepared(
    settings: ClassifierSettings, *, gpu_share: float | None = None, find: FindPictures = find_pictures
) -> Manifest | None:
    """Return what the cache has for an engine with so much of a GPU, or with any; None if nothing. Raises SetupError.

    Where the share is not known, one of the models that `auto` may end with is enough.
    """
    folder = cache_dir() / "models"
    settings = pin_files(settings)
    if _may_have_imagenet(settings):
        settings = settings.model_copy(update={"weights": "imagenet"})
    if gpu_share is not None:
        return _Cache(folder, gpu_share, find_pictures=find).find(settings)
    asked = filter(_is_usable, candidates(settings)) if settings.is_auto else [settings]
    found = (_Cache(folder, share, find_pictures=find).find(each) for each in asked for share in (0.0, 1.0))
    return next(filter(None, found), None)


def _may_have_imagenet(settings: ClassifierSettings) -> bool:
    return settings.weights == "auto" and not settings.is_model_file


@dataclass(frozen=True)
class _Cache:
    """The prepared models in `folder`, for engines that have so much of a GPU; it takes settings of `pin_files`."""

    folder: Path
    gpu_share: float
    is_start: bool = False
    find_pictures: FindPictures = field(default_factory=lambda: functools.cache(find_pictures))
    """How it looks at a folder of pictures: once, though every name of a model depends on it."""

    def place_of(self, settings: ClassifierSettings) -> Path:
        """Return the folder of what `settings` ask for, whether it is there or not."""
        return self.folder / _name(settings, self.gpu_share, self.find_pictures)

    def find(self, settings: ClassifierSettings) -> Manifest | None:
        """Return the manifest of the model that `settings` ask for, None if it is not there."""
        place = self.place_of(settings)
        if not settings.is_auto:
            return _read_manifest(place)
        choice = _read_choice(place)
        if choice is None:
            return None
        return self.find(settled(settings, choice.chosen.engine, choice.chosen.precision))

    def find_or_make_auto(self, settings: ClassifierSettings) -> PreparedModel:
        """Return the model with ImageNet's weights, or with random ones if those cannot be fetched."""
        imagenet = settings.model_copy(update={"weights": "imagenet"})
        place = self.place_of(imagenet)
        failure = self.folder / f"{place.name}-unavailable.txt"
        with _locked(self.folder / "auto.lock"):
            if not failure.exists() or (self.is_start and (place.is_dir() or not _is_recent(failure))):
                try:
                    found = self.find_or_choose(imagenet)
                except UnavailableError as exc:
                    failure.write_text(str(exc))
                else:
                    failure.unlink(missing_ok=True)
                    return found
            note = failure.read_text()
        random = self.find_or_choose(settings.model_copy(update={"weights": "random"}))
        return random.model_copy(update={"note": note})

    def find_or_choose(self, settings: ClassifierSettings) -> PreparedModel:
        """Return the model for the engine and precision of `settings`, or for those that `auto` ends with."""
        if not settings.is_auto:
            return self._find_or_make(settings)
        place = self.place_of(settings)
        with _locked(place.with_suffix(".lock")):
            choice = _read_choice(place)
            if choice is None or (self.is_start and not choice.is_lasting and not _is_recent(place / CHOICE)):
                choice = choose(settings, _is_usable, self._find_or_make, gpu_share=self.gpu_share)
                place.mkdir(exist_ok=True)
                making = place / f"{CHOICE}.making"
                making.write_text(choice.model_dump_json())
                making.replace(place / CHOICE)
        made = self._find_or_make(settled(settings, choice.chosen.engine, choice.chosen.precision))
        return made.model_copy(update={"choice": choice})

    def _find_or_make(self, settings: ClassifierSettings) -> PreparedModel:
        target = self.place_of(settings)
        manifest = self._usable(target)
        if manifest is None:
            with _locked(target.with_suffix(".lock")):
                manifest = self._usable(target) or _make(settings, target, self.gpu_share)
        if fault := manifest.find_admission_fault(settings.min_agreement):
            raise SetupError(fault)
        return PreparedModel(folder=target, manifest=manifest, fingerprint=target.name)

    def _usable(self, target: Path) -> Manifest | None:
        """Return the manifest of a prepared model, or None if it has to be made."""
        manifest = _read_manifest(target)
        if self.is_start and manifest and manifest.labels_are_missing and not _is_recent(target / MANIFEST):
            return None  # names that could not be fetched then may be there now
        return manifest


def _is_recent(path: Path) -> bool:
    return path.exists() and time.time() - path.stat().st_mtime < AUTO_RETRY_S


def _make(settings: ClassifierSettings, target: Path, gpu_share: float) -> Manifest:
    prefix = f".making-{target.name}-"
    for left_by_a_kill in target.parent.glob(f"{prefix}*"):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as making:
        _run_prepare(settings, Path(making) / "model", gpu_share)
        _replace(Path(making) / "model", target)
    return Manifest.model_validate_json((target / MANIFEST).read_bytes())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        with FileLock(path, timeout=LOCK_TIMEOUT_S):
            yield
    except Timeout as exc:
        what = f"another process has been preparing the model for {LOCK_TIMEOUT_S} s"
        raise PassingError(Fault("", what, f"wait for it, or end it and delete {path}")) from exc


def _read_manifest(target: Path) -> Manifest | None:
    """Return the manifest of a prepared model, or None if there is none that can be read."""
    try:
        return Manifest.model_validate_json((target / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def _is_usable(settings: ClassifierSettings) -> bool:
    return find_engine_fault(settings) is None


def _read_choice(place: Path) -> Choice | None:
    """Return what was chosen, or None if that has to be found out."""
    try:
        return Choice.model_validate_json((place / CHOICE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def _replace(made: Path, target: Path) -> None:
    if target.exists():  # unreadable or without labels, or it would have been taken
        target.rename(made.with_name("replaced"))
    made.rename(target)


def pin_files(settings: ClassifierSettings) -> ClassifierSettings:
    """Return `settings` with the SHA-256 of each file that they name, as it is now. Raises SetupError."""
    files = [field for field, words in SOURCE_WORDS.items() if getattr(settings, field) not in words]
    found = {
        f"{field}_sha256": checked_sha256(Path(source), getattr(settings, f"{field}_sha256"), field)
        for field in files
        if not is_url(source := getattr(settings, field))
    }
    return settings.model_copy(update=found)


def _fingerprint(settings: ClassifierSettings) -> str:
    return _name(pin_files(settings), 0.0)


def _name(pinned: ClassifierSettings, gpu_share: float, find: FindPictures = find_pictures) -> str:
    """Return a name for everything that decides what `engines.prepare` writes, or what `auto` ends with."""
    parts: dict[str, object] = {
        "recipe": RECIPE,
        "engine": pinned.engine,
        "versions": converter_versions(pinned),
        "model": _identity(pinned.model, pinned.model_sha256),
        "input": [pinned.preprocessing, pinned.resize, pinned.crop, pinned.outputs],
        "weights": _identity(pinned.weights, pinned.weights_sha256),
        "labels": _identity(pinned.labels, pinned.labels_sha256),
        "seed": pinned.seed if pinned.weights == "random" else None,
    }
    if pinned.is_auto or pinned.engine == "jax" or pinned.precision == "int8":
        # Made, compiled and measured on this machine, and for one precision.
        machine = [describe_processor(), *(find_gpus() if gpu_share else [])]
        parts |= {"precision": pinned.precision, "machine": machine, "on_gpu": gpu_share > 0}
    if pinned.calibration is not None:
        parts["calibration"] = [*_decoding(pinned), find(Path(pinned.calibration), MOST_PICTURES)]
    if pinned.is_auto:
        timed_with = [pinned.thread_count, pinned.max_batch, gpu_share]
        parts |= {"timed_with": timed_with, "agreement": _agreement_parts(pinned, find)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _agreement_parts(settings: ClassifierSettings, find: FindPictures) -> list[object]:
    if settings.agreement_pictures is None:
        return [settings.min_agreement]
    files = find(Path(settings.agreement_pictures), MOST_OF_A_FOLDER)
    return [settings.min_agreement, *_decoding(settings), files]


def _decoding(settings: ClassifierSettings) -> list[object]:
    """Return what decides what the network sees of a file, besides its input."""
    return [DECODING, settings.max_upload_bytes, settings.max_pixels, settings.reduced_decoding]


def converter_versions(settings: ClassifierSettings) -> dict[str, str]:
    """Return the versions of the libraries that decide what the prepared model computes: for `auto`, all that may."""
    asked = [*filter(_is_usable, candidates(settings))] if settings.is_auto else [settings]
    return {name: version(name) for name in sorted({name for each in asked for name in _packages(each)})}


def _packages(settings: ClassifierSettings) -> list[str]:
    """Return what an engine needs to prepare a model and to compute it; packages are called as their modules are."""
    maker = [_INT8_MAKER] if settings.precision == "int8" else []
    if settings.is_onnx:
        return [settings.engine, *maker]
    if settings.engine != "jax":
        return list(dict.fromkeys((settings.engine, "tensorflow", "keras", *maker)))
    draws = settings.weights == "random" and find_spec("tensorflow") is not None
    return ["jax", "keras", *(["tensorflow"] if draws else [])]


def _identity(source: str, sha256: str | None) -> str:
    return source if sha256 is None else f"{source.rsplit('/', 1)[-1]} {sha256}"


def checked_sha256(path: Path, expected: str | None, field: str) -> str:
    """Return the file's SHA-256. Raises SetupError if it cannot be read or is not the expected one."""
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        what = f"{path} cannot be read: {exc.strerror or exc}"
        raise SetupError(Fault(field, what, f"correct the path, or {_OTHER_WAYS[field]}")) from exc
    if expected is not None and actual != expected:
        what = f"{path} has SHA-256 {actual}, but {field}_sha256 says {expected}"
        raise SetupError(Fault(field, what, f"correct {field}_sha256, or name the file that it belongs to"))
    return actual


def _run_prepare(settings: ClassifierSettings, target: Path, gpu_share: float) -> None:
    source = shown(settings.model) if settings.is_model_file else f"weights: {shown(settings.weights)}"
    logger.info("preparing the model (%s); this is done once and kept in the cache", source)
    try:
        done = run_child(
            "serve_app.classifier.engines.prepare",
            str(target),
            text=settings.model_dump_json(),
            timeout_s=PREPARE_TIMEOUT_S,
            # What it leaves when it is killed is removed with the folder.
            environment=os.environ
            | bound_of_gpu_memory(gpu_share)
            | {"JAX_PLATFORMS": "cuda" if gpu_share else "cpu", "TMPDIR": str(target.parent)},
        )
    except subprocess.TimeoutExpired as exc:
        raise PassingError(f"preparing the model took longer than {PREPARE_TIMEOUT_S} s") from exc
    if done.returncode == CANNOT_FETCH:
        raise UnavailableError(done.stderr.strip().splitlines()[-1])
    if done.returncode == CANNOT_PREPARE:
        raise SetupError(done.stderr.strip().splitlines()[-1])
    if done.returncode == CANNOT_PREPARE_NOW:
        raise PassingError(done.stderr.strip().splitlines()[-1])
    if done.returncode < 0:
        what = f"was ended by signal {-done.returncode}: too little memory for this model?"
        raise PassingError(f"preparing the model ({source}) {what}")
    if done.returncode != 0:
        raise RuntimeError(f"preparing the model ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    _log_warnings(done.stderr)


def _log_warnings(stderr: str) -> None:
    for line in stderr.splitlines():
        if line.startswith(WARNING):
            logger.warning("preparing the model: %s", line.removeprefix(WARNING))


def _make_folder(folder: Path) -> None:
    if reason := why_not_writable(folder):
        raise SetupError(Fault("", f"{folder} cannot be written ({reason})", CACHE_REMEDY))
    folder.mkdir(parents=True, exist_ok=True)
