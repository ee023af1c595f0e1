"""The user's pictures by which `precision: int8` is made, and those by which it is judged. Called by `engines.prepare`.

Half of them are kept apart for the judgement: what a network was made of tells little about it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from serve_app.class_names import ClassNames
from serve_app.classifier.agreed import Agreed, Scores, compare_scores, is_beyond, why_refused
from serve_app.classifier.families import Geometry
from serve_app.classifier.picture_folder import PictureFile, Pictures, decode_pictures, find_pictures, no_pictures
from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import Fault, SetupError

MOST_PICTURES = 600
"""NNCF takes 300 unless told otherwise; as many judge."""
LEAST_PICTURES = 200
"""One of a hundred is the share that the default of `min_agreement` leaves."""
LEAST_LABELLED = LEAST_PICTURES // 2
LEAST_RIGHT = 0.5
"""Of the labelled pictures, about which float32 is right. Below, the labels may be those of another network."""
UNKNOWN = -1
MOST_BYTES = 2 * 2**30
"""Of decoded pictures. They are in memory twice while they are put in order, and `engines.prepare` has 16 GiB."""


class Accuracy(BaseModel):
    """About how many labelled pictures float32 and int8 are right."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: int
    float32: int
    int8: int
    commonest: int = Field(description="About how many it is right to name the commonest class, whatever they show.")
    unlabelled: Agreed | None = Field(description="With float32, about the other pictures.")


class Calibrated(BaseModel):
    """How a network became one of int8."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: int = Field(description="By which it was made.")
    sha256: str = Field(description="Of their pixels.")
    agreement: Agreed = Field(description="With float32, about other pictures of the same folder.")
    accuracy: Accuracy | None = Field(None, description="About those of them that are in a folder named for a class.")


@dataclass(frozen=True)
class Calibration:
    """Pictures of the folder `calibration`, shape (n, crop, crop, 3)."""

    folder: Path
    making: Pictures
    judging: Pictures
    classes: NDArray[np.int64]
    """Of `judging`, shape (n,): the index of a class, or UNKNOWN."""

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the pictures that int8 is made by."""
        return hashlib.sha256(self.making.data).hexdigest()


def find_calibration_fault(folder: Path, files: Sequence[PictureFile]) -> Fault | None:
    """Return why `folder` cannot be what int8 is made by, as far as the number of its picture files tells."""
    if not files:
        return no_pictures("calibration", folder)
    return _too_few(f"{len(files)} picture files", folder) if len(files) < LEAST_PICTURES else None


def read_calibration(settings: ClassifierSettings, geometry: Geometry, labels: Sequence[str]) -> Calibration:
    """Return the pictures of the folder that `settings` name, decoded as those of clients. Raises SetupError.

    The first folder below it is the class of the pictures in it if it is called as one of `labels`, or its index. Equal
    pictures count once: otherwise one could be in both halves. The order is that of their SHA-256, the same each time:
    by their names, every second one may be of one kind.
    """
    assert settings.calibration is not None  # ClassifierSettings asks for it with int8
    folder = Path(settings.calibration)
    files = find_pictures(folder, MOST_PICTURES)
    if fault := find_calibration_fault(folder, files) or _find_size_fault(folder, len(files), geometry.crop):
        raise SetupError(fault)
    decoded = decode_pictures(files, settings, geometry)
    by_digest = {hashlib.sha256(picture.data).digest(): (file, picture) for file, picture in decoded}
    different = [by_digest[digest] for digest in sorted(by_digest)]
    if len(different) < LEAST_PICTURES:
        raise SetupError(_too_few(f"{len(different)} different pictures that can be decoded", folder))
    making, judging = different[::2], different[1::2]
    names = ClassNames(labels)
    return Calibration(
        folder,
        making=np.stack([picture for _, picture in making]),
        judging=np.stack([picture for _, picture in judging]),
        classes=np.array([_class_of(file.relative_to(folder), names) for file, _ in judging]),
    )


def judge_int8(calibration: Calibration, wanted: Scores, found: Scores) -> Calibrated:
    """Return how the scores of int8 (`found`) of the judging pictures compare with those of float32 (`wanted`).

    Raises SetupError if some are not finite.
    """
    for precision, scores in (("float32", wanted), ("int8", found)):
        if not np.isfinite(scores).all():
            what = f"{precision} of this network gives numbers that are not finite for pictures of {calibration.folder}"
            raise SetupError(Fault("precision", what, "check weights and preprocessing, or write `precision: float32`"))
    return Calibrated(
        pictures=len(calibration.making),
        sha256=calibration.sha256,
        agreement=compare_scores(f"pictures of {calibration.folder} kept apart", wanted, found),
        accuracy=count_right(calibration.classes, wanted, found),
    )


def count_right(classes: NDArray[np.int64], wanted: Scores, found: Scores) -> Accuracy | None:
    """Return how often the scores of float32 (`wanted`) and of int8 (`found`) are right.

    None where fewer than LEAST_LABELLED pictures are labelled, or no more than half of them.
    """
    is_known = classes != UNKNOWN
    known, others = classes[is_known], int((~is_known).sum())
    if len(known) < max(LEAST_LABELLED, others + 1):
        return None
    float32, int8 = (int((scores[is_known].argmax(axis=1) == known).sum()) for scores in (wanted, found))
    unlabelled = compare_scores("pictures without a label", wanted[~is_known], found[~is_known]) if others else None
    commonest = int(np.bincount(known).max())
    return Accuracy(of=len(known), float32=float32, int8=int8, commonest=commonest, unlabelled=unlabelled)


def find_admission_fault(calibrated: Calibrated, min_agreement: float) -> Fault | None:
    """Return why int8 may not serve: it names another best class than float32 too often, and is right less often.

    Who agrees in a share of `min_agreement` is right at most 1 - `min_agreement` less often. Labels tell that directly.
    """
    refused = why_refused([calibrated.agreement], min_agreement)
    if refused is None:
        return None
    share = calibrated.agreement.same_class / calibrated.agreement.of
    what = f"int8 has {refused}: it agrees in {share:.4f} of them, min_agreement is {min_agreement:g}"
    if (accuracy := calibrated.accuracy) is not None:
        reason = _why_less_right(accuracy, min_agreement)
        if reason is None:
            return None
        what += (
            f"; its labels do not outweigh that, because {reason}: it is right about {accuracy.int8} of {accuracy.of} "
            f"labelled ones, float32 about {accuracy.float32}"
        )
    remedy = "write `precision: float32`, or name a folder with more pictures like those of your clients"
    return Fault("precision", what, f"{remedy}, or lower min_agreement")


def _why_less_right(accuracy: Accuracy, min_agreement: float) -> str | None:
    """Return why labels do not show that int8 is as right as float32, or None if they do."""
    if accuracy.unlabelled and (refused := why_refused([accuracy.unlabelled], min_agreement)):
        return f"it has {refused}"
    if accuracy.float32 < LEAST_RIGHT * accuracy.of:
        return f"float32 is right about less than {LEAST_RIGHT:g} of them, as if they were those of another network"
    if accuracy.int8 <= accuracy.commonest:
        return f"naming always the same class would be right about {accuracy.commonest}"
    if is_beyond(accuracy.float32 - accuracy.int8, accuracy.of, min_agreement):
        return "it loses a larger share of them than 1 - min_agreement"
    return None


def _find_size_fault(folder: Path, pictures: int, crop: int) -> Fault | None:
    needed = pictures * crop * crop * 3
    if needed <= MOST_BYTES:
        return None
    what = (
        f"{pictures} pictures of {crop}×{crop} pixels are {needed / 2**30:.1f} GiB, more than {MOST_BYTES // 2**30} GiB"
    )
    return Fault("calibration", f"{folder}: {what}", f"leave fewer in it, {LEAST_PICTURES} or more, or lower crop")


def _class_of(path: Path, names: ClassNames) -> int:
    """Return the class that the first folder of `path` is called for, UNKNOWN if there is none."""
    found = names.find(path.parts[0]) if len(path.parts) > 1 else ()
    return found[0] if len(found) == 1 else UNKNOWN


def _too_few(found: str, folder: Path) -> Fault:
    what = f"{folder} has {found}; int8 needs {LEAST_PICTURES}: half of them to be made by, half to be judged by"
    return Fault("calibration", what, "add pictures like those of your clients")
