"""The user's pictures by which `precision: int8` is made, and those by which it is judged. Called by `engines.prepare`.

Every second picture is kept apart for the judgement: what a network was made of tells little about it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from serve_app.classifier.agreed import Agreed, why_refused
from serve_app.classifier.families import Geometry
from serve_app.classifier.picture_folder import Pictures, decode_pictures, find_pictures, no_pictures
from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import Fault, SetupError

MOST_PICTURES = 600
"""NNCF takes 300 unless told otherwise; as many judge."""
LEAST_PICTURES = 200
"""One of a hundred is the share that the default of `min_agreement` leaves."""


class Calibrated(BaseModel):
    """How a network became one of int8."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: int = Field(description="By which it was made.")
    sha256: str = Field(description="Of their pixels.")
    agreement: Agreed = Field(description="With float32, about other pictures of the same folder.")


@dataclass(frozen=True)
class Calibration:
    """Pictures of the folder `calibration`, shape (n, crop, crop, 3)."""

    folder: Path
    making: Pictures
    judging: Pictures

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the pictures that int8 is made by."""
        return hashlib.sha256(self.making.data).hexdigest()


def find_calibration_fault(folder: Path) -> Fault | None:
    """Return why `folder` cannot be what int8 is made by, as far as the number of its files tells."""
    files = len(find_pictures(folder, MOST_PICTURES))
    if not files:
        return no_pictures("calibration", folder)
    return _too_few(f"{files} files", folder) if files < LEAST_PICTURES else None


def read_calibration(settings: ClassifierSettings, geometry: Geometry) -> Calibration:
    """Return the pictures of the folder that `settings` name, decoded as those of clients. Raises SetupError.

    Of pictures that are the same, one is taken: it would judge what was made by itself.
    """
    assert settings.calibration is not None  # ClassifierSettings asks for it with int8
    folder = Path(settings.calibration)
    if fault := find_calibration_fault(folder):
        raise SetupError(fault)
    decoded = decode_pictures(folder, MOST_PICTURES, settings, geometry)
    different = list({hashlib.sha256(picture.data).digest(): picture for picture in decoded}.values())
    if len(different) < LEAST_PICTURES:
        raise SetupError(_too_few(f"{len(different)} different pictures that can be decoded", folder))
    return Calibration(folder, np.stack(different[::2]), np.stack(different[1::2]))


def check_admission(calibrated: Calibrated, min_agreement: float) -> None:
    """Raise SetupError if int8 names another best class than float32 too often."""
    if refused := why_refused([calibrated.agreement], min_agreement):
        share = calibrated.agreement.same_class / calibrated.agreement.of
        what = f"int8 has {refused}: it agrees in {share:.4f} of them, min_agreement is {min_agreement:g}"
        remedy = "write `precision: float32`, or name a folder with more pictures like those of your clients"
        raise SetupError(Fault("precision", what, f"{remedy}, or lower min_agreement"))


def _too_few(found: str, folder: Path) -> Fault:
    what = f"{folder} has {found}; int8 needs {LEAST_PICTURES}: half of them to be made by, half to be judged by"
    return Fault("calibration", what, "add pictures like those of your clients")
