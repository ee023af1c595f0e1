"""Whether a network can be served: its input, and what it returns. Pure; called by the readers of networks."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.classifier.families import PreprocessingName
from serve_app.errors import Fault, SetupError

Outputs = Literal["probabilities", "logits"]

Serve = Callable[[Any, Callable[[Any], Any]], Any]
"""Takes pictures, and what computes the network's scores of its input; returns probabilities."""

_NO_MEMORY = re.compile(r"(?:RESOURCE_EXHAUSTED|CUDA_ERROR_OUT_OF_MEMORY)[ -~]*")
"""What JAX says of a device without memory, to the end of the line."""

SUM_WITHIN = 1e-2
"""Of 1: what float16 makes of the sum of a thousand probabilities."""


@dataclass(frozen=True)
class NetworkFacts:
    """What answers, logs and the manifest of a prepared model say of a network."""

    name: str
    weights: str
    """imagenet, random or a file's name."""
    weights_sha256: str | None
    preprocessing: PreprocessingName
    crop: int
    """Side of its square input, pixels."""
    classes: int
    outputs: Outputs


class Network(Protocol):
    """A network that can be served, as one of the readers returns it."""

    @property
    def facts(self) -> NetworkFacts:
        """What it is."""

    def save(self, folder: Path) -> str:
        """Write it for the engine of the settings, from uint8 RGB pictures to probabilities; return for what device."""


def judge_outputs(
    name: str, scores: NDArray[np.float32], asked: Literal["auto"] | Outputs, *, is_sigmoid: bool = False
) -> Outputs:
    """Return what the network's `scores`, shape (n, classes), of arbitrary pictures are.

    Raises SetupError if `asked` says otherwise, or if they are neither: not finite, too few, or of several labels.
    """
    if scores.shape[1] < 2:  # noqa: PLR2004
        raise SetupError(f"model: {name} has a score for one class only; it must have one for each of two or more")
    if not np.isfinite(scores).all():
        raise SetupError(
            f"model: {name} returns numbers that are not finite; check its weights and the key preprocessing"
        )
    is_within = bool((scores >= -SUM_WITHIN).all() and (scores <= 1 + SUM_WITHIN).all())
    is_distribution = is_within and not is_sigmoid and bool(np.allclose(scores.sum(axis=1), 1, atol=SUM_WITHIN))
    if asked == "probabilities" and not is_distribution:
        raise SetupError(
            f"outputs: {name} does not return probabilities: their sum is {scores[0].sum():.4g}, not 1; remove the key"
        )
    if asked == "logits" and is_distribution:
        raise SetupError(f"outputs: {name} returns probabilities, whose sum is 1, not logits; remove the key")
    if asked == "auto" and is_within and not is_distribution:
        raise SetupError(
            f"outputs: {name} returns numbers from 0 to 1 whose sum is not 1: networks with several labels for one "
            "picture are not served; if these are logits, write `outputs: logits`"
        )
    return "probabilities" if is_distribution else "logits"


def check_side(name: str, height: int | None, width: int | None, crop: int | None) -> int:
    """Return the side of the square input; `crop` is the configured one. Raises SetupError."""
    if height != width:
        raise SetupError(f"model: {name} has an input of {height}×{width} pixels; only square inputs are served")
    if height is None and crop is None:
        raise SetupError(
            f"model: {name} does not fix the size of its input; set `crop` to the side of the square in pixels"
        )
    if height is not None and crop not in (None, height):
        raise SetupError(f"crop: {crop} differs from the {height}×{height} pixels that {name} takes; remove the key")
    side = height or crop
    assert side is not None
    return side


def first_line(fault: BaseException) -> str:
    """Return the first line of what a library says of a fault."""
    return (str(fault).strip() or type(fault).__name__).splitlines()[0]


def find_memory_fault(fault: BaseException) -> Fault | None:
    """Return what to tell of a fault that comes of a device with too little memory, None for any other one."""
    for cause in chain_of(fault):
        if isinstance(cause, RuntimeError) and (said := _NO_MEMORY.search(str(cause))):
            what = f"jax has too little memory to prepare the model: {said[0].rstrip('.')}"
            return Fault("engine", what, "free the device's memory, or put fewer engines on one GPU")
    return None


def chain_of(fault: BaseException) -> Iterator[BaseException]:
    """Yield a fault and what it came of, also where urllib has that as a mere value."""
    seen: list[BaseException | None] = [None]
    cause: BaseException | None = fault
    while cause not in seen:
        assert cause is not None
        seen.append(cause)
        yield cause
        reason = getattr(cause, "reason", None)
        cause = reason if isinstance(reason, BaseException) else cause.__cause__ or cause.__context__
