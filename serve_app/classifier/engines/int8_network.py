"""Makes a network of OpenVINO one of int8 with NNCF (extra `int8`). Called by `prepare`.

What serves it does not import NNCF. It has to be installed there all the same: its version is in the network's name.
"""

from pathlib import Path
from typing import Any

import openvino

from serve_app.classifier.calibration import Calibrated, Calibration, judge_int8
from serve_app.classifier.engines.checks import first_line
from serve_app.classifier.engines.openvino_engine import OpenVinoEngine
from serve_app.classifier.engines.prepared_files import INT8_MODEL, OPENVINO_MODEL
from serve_app.classifier.engines.trial import compute_scores
from serve_app.errors import Fault, SetupError


def save_as_int8(folder: Path, calibration: Calibration, *, threads: int, max_batch: int) -> Calibrated:
    """Put a network of int8 in the place of that of float32 in `folder`; tell how far they agree. Raises SetupError."""
    openvino.save_model(_quantize(folder / OPENVINO_MODEL, calibration), folder / INT8_MODEL, compress_to_fp16=False)
    wanted, found = (
        compute_scores(OpenVinoEngine(folder, threads=threads, precision=precision), calibration.judging, max_batch)
        for precision in ("float32", "int8")
    )
    for suffix in (".xml", ".bin"):
        (folder / OPENVINO_MODEL).with_suffix(suffix).unlink()
    return judge_int8(calibration, wanted, found)


def _quantize(path: Path, calibration: Calibration) -> Any:
    import nncf

    try:
        return nncf.quantize(
            openvino.Core().read_model(path),
            nncf.Dataset([picture[None] for picture in calibration.making]),
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(calibration.making),
        )
    except Exception as exc:  # NNCF and OpenVINO have no common type for what they cannot do
        what = f"nncf cannot make int8 of this network: {first_line(exc)}"
        raise SetupError(Fault("precision", what, "write `precision: float32`")) from exc
