"""`engine: auto` and `precision: auto`: the fastest engine here that agrees with float32. Called by `model_cache`.

Every engine that is installed is tried on its prepared model, one after the other and each in a process of its own
(`engines.trial`), as a replica would load it. It agrees if it names the same best class as the reference in a share of
`min_agreement` of the pictures: generated ones, and those of the folder `agreement_pictures`.
"""

import logging
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.classifier.agreed import Agreed, Scores, compare_scores, why_refused
from serve_app.classifier.child import run_child
from serve_app.classifier.families import Geometry
from serve_app.classifier.picture_folder import Pictures, decode_pictures, find_pictures, no_pictures
from serve_app.classifier.settings import USUAL_AGREEMENT, ClassifierSettings
from serve_app.errors import Fault, SetupError

if TYPE_CHECKING:
    from serve_app.classifier.model_cache import PreparedModel

logger = logging.getLogger(__name__)

GENERATED = 128
"""One picture with another best class is less than 0.01 of them."""
MOST_OF_A_FOLDER = 256
_TRIAL = "serve_app.classifier.engines.trial"
TRIAL_TIMEOUT_S = 900
_ENGINES = ("tensorflow", "openvino", "jax", "onnxruntime")
_PRECISIONS = ("float32", "bfloat16", "int8")
_MOST_GRID = 24
_GRAIN = 6
"""Standard deviation of the noise in generated pictures, of 255 levels."""


class Trial(BaseModel):
    """One engine with one precision: how fast it is, and whether it may be chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Literal["tensorflow", "openvino", "onnxruntime", "jax"]
    precision: Literal["float32", "bfloat16", "int8"]
    images_per_s: float | None = Field(None, description="Of one replica's engine, without decoding and HTTP.")
    agreement: list[Agreed] = Field(
        default=[], description="With the reference. That of int8 is about `agreement_pictures` only; see `calibrated`."
    )
    refused: str | None = Field(None, description="Why it was not chosen, however fast it is.")
    may_pass: bool = Field(
        default=False,
        description="Whether it was refused for what may be otherwise another time, such as too little memory.",
    )


class Choice(BaseModel):
    """What `auto` was decided by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str
    trials: list[Trial] = Field(description="The chosen one first, then from fast to slow, then the refused ones.")

    @property
    def chosen(self) -> Trial:
        """Return the trial of what serves."""
        return self.trials[0]

    @property
    def is_lasting(self) -> bool:
        """Tell whether another choice, made of the same, would end the same way."""
        return not any(trial.may_pass for trial in self.trials)


@dataclass(frozen=True)
class _PictureSet:
    name: str
    pictures: Pictures
    are_of_a_user: bool


@dataclass(frozen=True)
class _Outcome:
    images_per_s: float
    scores: list[Scores]
    """For each set of pictures."""


class PassingError(SetupError):
    """A model cannot be prepared for a reason that may be gone the next time."""


class _TrialFailed(Exception):
    """An engine's process ended without an answer."""


def candidates(settings: ClassifierSettings) -> Iterator[ClassifierSettings]:
    """Yield `settings` with each engine and precision in place of `auto` that can compute this model."""
    for engine in _ENGINES if settings.engine == "auto" else (settings.engine,):
        for precision in _PRECISIONS if settings.precision == "auto" else (settings.precision,):
            try:
                yield settled(settings, engine, precision)
            except ValidationError:  # this engine does not compute such files, or not in this precision
                continue


def settled(settings: ClassifierSettings, engine: str, precision: str) -> ClassifierSettings:
    """Return `settings` with an engine and a precision in place of `auto`. Raises ValidationError."""
    changes: dict[str, object] = {"engine": engine, "precision": precision, "agreement_pictures": None}
    if precision != "int8":
        changes |= {"calibration": None, "min_agreement": USUAL_AGREEMENT}
    return ClassifierSettings.model_validate({**settings.model_dump(), **changes})


def choose(
    settings: ClassifierSettings,
    is_usable: Callable[[ClassifierSettings], bool],
    prepare: Callable[[ClassifierSettings], "PreparedModel"],
    *,
    gpu_share: float,
) -> Choice:
    """Return which of the candidates that can be used here is the fastest one that agrees with the reference.

    `prepare` makes a candidate's prepared model. Raises SetupError if none agrees, or the reference cannot be prepared.
    """
    installed = [candidate for candidate in candidates(settings) if is_usable(candidate)]
    reference = next(filter(is_usable, _references(settings)))
    try:
        prepared = prepare(reference)
    except RuntimeError as exc:
        logger.exception("%s prepared no model", reference.engine)
        what = f"{reference.engine} (float32), with which the others are compared, prepares no model: {_reason(exc)}"
        raise SetupError(Fault("engine", what, "name another engine")) from exc
    sets = list(_make_pictures(settings, prepared.manifest.geometry))
    bench = _Bench(settings, sets, gpu_share)
    # On a GPU float32 of jax is TF32.
    highest = "highest" if reference.engine == "jax" else reference.precision
    try:
        wanted = bench.run(prepared.folder, reference.engine, highest)
    except _TrialFailed as exc:
        raise SetupError(Fault("engine", f"{reference.engine} computes no picture: {exc}", "name another one")) from exc
    trials = _try_each(installed, lambda candidate: _try(candidate, prepare, bench, wanted))
    trials.sort(key=lambda trial: (trial.refused is not None, -(trial.images_per_s or 0)))
    if trials[0].refused:
        told = "; ".join(f"{trial.engine} ({trial.precision}): {trial.refused}" for trial in trials)
        what = f"no installed engine agrees with {reference.engine} (float32): {told}"
        raise SetupError(Fault("engine", what, "write `precision: auto` or `precision: float32`"))
    return Choice(reference=f"{reference.engine} ({highest})", trials=trials)


def _references(settings: ClassifierSettings) -> Iterator[ClassifierSettings]:
    """Yield the engines whose float32 may be what the others are compared with: the first one that is there is."""
    for engine in ("onnxruntime", "openvino") if settings.is_onnx else ("tensorflow", "jax"):
        yield settled(settings, engine, "float32")


def _try_each(installed: list[ClassifierSettings], try_one: Callable[[ClassifierSettings], Trial]) -> list[Trial]:
    """Return a trial of each candidate.

    int8 was compared with float32 of its own engine, of which it is made. So it may serve only where that may.
    """
    trials: list[Trial] = []
    for candidate in installed:
        if candidate.precision == "int8":
            of_engine = {trial.precision: trial for trial in trials if trial.engine == candidate.engine}
            source = of_engine.get("float32") or try_one(settled(candidate, candidate.engine, "float32"))
            if source.refused:
                refused = f"{source.engine} (float32), of which it is made, was refused: {source.refused}"
                trials.append(Trial(engine=source.engine, precision="int8", refused=refused, may_pass=source.may_pass))
                continue
        trials.append(try_one(candidate))
    return trials


def _try(
    candidate: ClassifierSettings,
    prepare: Callable[[ClassifierSettings], "PreparedModel"],
    bench: "_Bench",
    wanted: _Outcome,
) -> Trial:
    logger.info("trying engine %s with precision %s", candidate.engine, candidate.precision)
    about: dict[str, object] = {"engine": candidate.engine, "precision": candidate.precision}
    try:
        prepared = prepare(candidate)
        found = bench.run(prepared.folder, candidate.engine, candidate.precision)
    except (SetupError, RuntimeError, _TrialFailed) as exc:
        logger.info("engine %s with precision %s: %s", candidate.engine, candidate.precision, exc)
        may_pass = isinstance(exc, PassingError) or not isinstance(exc, SetupError)
        return Trial.model_validate({**about, "refused": _reason(exc), "may_pass": may_pass})
    about |= {"images_per_s": found.images_per_s}
    if not all(np.isfinite(scores).all() for scores in found.scores):
        return Trial.model_validate({**about, "refused": "it gives numbers that are not finite"})
    measured = _compare(bench.sets, wanted, found, candidate.precision)
    refused = why_refused(measured, bench.settings.min_agreement)
    return Trial.model_validate({**about, "agreement": measured, "refused": refused})


def _compare(sets: list[_PictureSet], wanted: _Outcome, found: _Outcome, precision: str) -> list[Agreed]:
    """Return the agreement about each set of pictures that `precision` is made for: int8 is for the user's own."""
    return [
        compare_scores(given.name, *scores)
        for given, *scores in zip(sets, wanted.scores, found.scores, strict=True)
        if given.are_of_a_user or precision != "int8"
    ]


def _reason(exc: Exception) -> str:
    """Return the last line of what an engine's process said, which is what Python ends a traceback with."""
    return (str(exc).strip() or repr(exc)).splitlines()[-1].strip()


@dataclass(frozen=True)
class _Bench:
    """Where engines are tried: on the same pictures, with the threads, batches and share of a GPU of a replica."""

    settings: ClassifierSettings
    sets: list[_PictureSet]
    gpu_share: float
    outcomes: dict[tuple[Path, str, str], _Outcome] = field(default_factory=dict)
    """Of the engines that were tried: the reference is mostly a candidate, too."""

    def run(self, folder: Path, engine: str, precision: str) -> _Outcome:
        """Return how fast an engine computes the prepared model in `folder`, and its scores. Raises _TrialFailed."""
        asked = folder, engine, precision
        if asked not in self.outcomes:
            self.outcomes[asked] = self._try(*asked)
        return self.outcomes[asked]

    def _try(self, folder: Path, engine: str, precision: str) -> _Outcome:
        from serve_app.classifier.engines.trial import Question

        with TemporaryDirectory() as place:
            asked, answered = Path(place) / "pictures.npz", Path(place) / "scores.npz"
            np.savez(asked, *(each.pictures for each in self.sets))
            question = Question(
                folder=folder,
                engine=engine,
                precision=precision,
                threads=self.settings.thread_count,
                max_batch=self.settings.max_batch,
                gpu_share=self.gpu_share,
                pictures=asked,
                answer=answered,
            )
            try:
                done = run_child(_TRIAL, text=question.model_dump_json(), timeout_s=TRIAL_TIMEOUT_S)
            except subprocess.TimeoutExpired as exc:
                raise _TrialFailed(f"it took longer than {TRIAL_TIMEOUT_S} s") from exc
            if done.returncode != 0:
                told = done.stderr.strip().splitlines() or [f"it ended with exit code {done.returncode}"]
                raise _TrialFailed(told[-1])
            with np.load(answered) as found:
                scores = [found[f"arr_{number}"] for number in range(len(self.sets))]
                return _Outcome(float(found["images_per_s"]), scores)


def _make_pictures(settings: ClassifierSettings, geometry: Geometry) -> Iterator[_PictureSet]:
    yield _PictureSet("generated pictures", generate_pictures(GENERATED, geometry.crop), are_of_a_user=False)
    if settings.agreement_pictures is not None:
        folder = Path(settings.agreement_pictures)
        files = find_pictures(folder, MOST_OF_A_FOLDER)
        decoded = [picture for _, picture in decode_pictures(files, settings, geometry)]
        if not decoded:
            raise SetupError(no_pictures("agreement_pictures", folder))
        yield _PictureSet(f"pictures of {folder}", np.stack(decoded), are_of_a_user=True)


def generate_pictures(count: int, side: int) -> Pictures:
    """Return pictures of coloured patches with grain, shape (count, side, side, 3), the same each time.

    Patches are smooth, from a few large to many small ones, as network inputs are: noise alone looks like one class.
    """
    random = np.random.default_rng(0)
    made = np.empty((count, side, side, 3), np.uint8)
    for picture in made:
        grid = int(random.integers(2, _MOST_GRID))
        patches = random.uniform(0, 255, (grid, grid, 3)) * random.uniform(0.2, 1, 3)
        knots = np.linspace(0, side - 1, grid)
        weights = np.stack([np.interp(np.arange(side), knots, one) for one in np.eye(grid)])
        smooth = np.einsum("gi,hj,ghc->ijc", weights, weights, patches, optimize=True)
        picture[:] = np.clip(smooth + random.normal(0, _GRAIN, (side, side, 1)), 0, 255).astype(np.uint8)
    return made
