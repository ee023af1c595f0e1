"""Writes a network of Keras as the engine `jax` computes it: StableHLO with the weights beside it.

Keras must compute with JAX in this process. The network is traced once, for any number of pictures.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
from jax import export
from numpy.typing import NDArray

from serve_app.classifier.engines.checks import Serve, first_line
from serve_app.classifier.engines.jax_engine import JaxEngine
from serve_app.classifier.engines.prepared_files import HIGHEST_STABLEHLO, STABLEHLO, WEIGHTS, probe
from serve_app.errors import Fault, SetupError

WRONG_BY = 0.3
"""Of a probability: further from float32, the answers of bfloat16 are not rounded but wrong."""
TRIED_BATCH = 4
"""Sizes up to it are compiled when bfloat16 is tried; the replicas find them."""


def save_for_jax(network: keras.Model, serve: Serve, crop: int, folder: Path, precision: str) -> str:
    """Write the network; that of float32 also in the highest precision. Return the name of what it is computed on.

    Raises SetupError if it cannot be traced, or if bfloat16 gives wrong answers here.
    """
    variables = [*network.trainable_variables, *network.non_trainable_variables]
    trainable = len(network.trainable_variables)

    def compute(weights: Sequence[Any], pictures: Any) -> Any:
        given = weights[:trainable], weights[trainable:]
        return serve(pictures, lambda inputs: network.stateless_call(*given, inputs, training=False)[0])

    weights = [np.asarray(variable) for variable in variables]
    if precision == "float32":
        np.savez(folder / WEIGHTS, *weights)
        _export(compute, weights, crop, folder / STABLEHLO)
        with jax.default_matmul_precision("highest"):
            _export(compute, weights, crop, folder / HIGHEST_STABLEHLO)
        return str(jax.devices()[0].device_kind)
    pictures = probe(crop)
    with jax.default_matmul_precision("highest"):
        highest = np.asarray(jax.jit(compute)(weights, pictures))
    rounded = _compute_in_bfloat16(network)
    weights = [
        array.astype(jax.numpy.bfloat16) if id(variable) in rounded else array
        for variable, array in zip(variables, weights, strict=True)
    ]
    np.savez(folder / WEIGHTS, *weights)
    _export(compute, weights, crop, folder / STABLEHLO)
    engine = JaxEngine(folder, threads=1, precision=precision, max_batch=TRIED_BATCH, gpu_share=given_gpus())
    _check(engine.infer(pictures), highest, engine.device)
    return engine.device


def given_gpus() -> int:
    """Return how many GPUs this process is to compute on: 1, or 0 where JAX computes on the CPU."""
    return int(jax.default_backend() == "gpu")


def _export(compute: Callable[..., Any], weights: list[NDArray[Any]], crop: int, file: Path) -> None:
    [count] = export.symbolic_shape("n")
    pictures = jax.ShapeDtypeStruct((count, crop, crop, 3), np.uint8)
    shapes = [jax.ShapeDtypeStruct(weight.shape, weight.dtype) for weight in weights]
    try:
        file.write_bytes(export.export(jax.jit(compute))(shapes, pictures).serialize())
    except Exception as exc:  # JAX has no common type for what it cannot trace
        what = f"jax cannot trace this network for any number of pictures: {first_line(exc)}"
        raise SetupError(Fault("engine", what, "write `engine: tensorflow`")) from exc


def _compute_in_bfloat16(network: keras.Model) -> set[int]:
    """Let all layers but those that make the scores compute in bfloat16. Return the ids of the weights to round."""
    for layer in network._flatten_layers():  # noqa: SLF001 nested ones too
        layer.dtype_policy = "mixed_bfloat16"
    rounded = {id(variable) for variable in network.variables if variable.dtype == "float32" and variable._autocast}  # noqa: SLF001
    for layer in reversed(network.layers):
        layer.dtype_policy = "float32"
        if layer.weights:
            return rounded - {id(variable) for variable in layer.weights}
    return rounded


def _check(scores: NDArray[np.float32], highest: NDArray[np.float32], device: str) -> None:
    """Raise SetupError if the `scores` of bfloat16 are not those of the `highest` precision, but for rounding."""
    differs_by = float(np.abs(scores - highest).max())
    if not np.isfinite(scores).all():
        what = "bfloat16 gives numbers that are not finite"
    elif differs_by > WRONG_BY:
        what = f"bfloat16 gives wrong answers (probabilities are off by up to {differs_by:.2f})"
    else:
        return
    what += f" of this network with engine: jax on {device}"
    raise SetupError(Fault("precision", what, "write `precision: float32`"))
