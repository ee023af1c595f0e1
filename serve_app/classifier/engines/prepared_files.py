"""What `prepare` writes and the engines read."""

from dataclasses import asdict, dataclass
from json import dumps, loads
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serve_app.classifier.families import Preprocessing

SAVED_MODEL = "saved_model"
OPENVINO_MODEL = "openvino.xml"
INT8_MODEL = "int8.xml"
ONNX_MODEL = "model.onnx"
ONNX_INPUT = "onnx_input.json"
STABLEHLO = "network.stablehlo"
HIGHEST_STABLEHLO = "highest.stablehlo"
WEIGHTS = "weights.npz"
COMPILED = "compiled"
"""A folder: what JAX has compiled on this machine."""
INPUT = "pictures"
OUTPUT = "scores"


def probe(side: int) -> NDArray[np.uint8]:
    """Return pictures, shape (5, side, side, 3), on which networks are tried: noise, black, white, red, a gradient."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    flat = [np.full((side, side, 3), colour, np.uint8) for colour in ((0, 0, 0), (255, 255, 255), (160, 20, 30))]
    across, down = np.meshgrid(np.linspace(0, 255, side), np.linspace(0, 255, side))
    return np.stack([noise, *flat, np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)])


@dataclass(frozen=True)
class OnnxInput:
    """How uint8 RGB pictures become the input of a network in an ONNX file."""

    side: int
    channels_first: bool
    one_at_a_time: bool
    """Whether the file takes batches of one picture only."""
    preprocessing: Preprocessing

    def scale(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return `pictures`, shape (n, side, side, 3), as the network wants them."""
        scaling = self.preprocessing
        mean, divisor = (np.asarray(values, np.float32) for values in (scaling.mean, scaling.scale))
        pixels = (pictures.astype(np.float32) - mean) / divisor
        ordered = pixels[..., ::-1] if scaling.is_bgr else pixels
        return ordered.transpose(0, 3, 1, 2) if self.channels_first else ordered

    def write(self, folder: Path, *, is_logits: bool) -> None:
        """Keep it beside the network."""
        (folder / ONNX_INPUT).write_text(dumps({"input": asdict(self), "is_logits": is_logits}))

    @classmethod
    def read(cls, folder: Path) -> tuple[Self, bool]:
        """Return what `write` kept, and whether the network returns logits. Raises OSError and ValueError."""
        kept = loads((folder / ONNX_INPUT).read_text())
        scaling = Preprocessing(**kept["input"].pop("preprocessing"))
        return cls(preprocessing=scaling, **kept["input"]), kept["is_logits"]
