"""What decides that a kept prediction is the answer: a name for the model, and for how it looks at a picture."""

import hashlib
import json

from serve_app.classifier.images import DECODING
from serve_app.classifier.machine import describe_processor
from serve_app.classifier.model_cache import RECIPE, PreparedModel, converter_versions
from serve_app.classifier.settings import ClassifierSettings


def fingerprint_model(settings: ClassifierSettings, prepared: PreparedModel) -> str:
    """Return a name for everything that decides a picture's scores, besides its bytes.

    Labels are no part of it: what is kept are class indices. Nor are limits: a picture that one configuration answered
    is right for another.
    """
    manifest = prepared.manifest
    parts: dict[str, object] = {
        "network": manifest.name,
        "weights": manifest.weights_sha256 or manifest.weights,
        "seed": settings.seed if manifest.weights == "random" else None,
        "recipe": RECIPE,
        "engine": settings.engine,
        "precision": settings.precision,
        "versions": converter_versions(settings),
        "input": [manifest.preprocessing, manifest.resize, manifest.crop, manifest.outputs],
        "decoding": [DECODING, settings.reduced_decoding],
    }
    if manifest.calibrated is not None:
        # Without VNNI sums of int8 may overflow: processors round differently.
        parts["calibration"] = [manifest.calibrated.sha256, describe_processor()]
    if manifest.device != "cpu":
        parts["device"] = manifest.device
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
