"""Networks on JAX (extra `jax`, or `gpu` with CUDA), from the StableHLO that `engines.prepare` wrote. No Keras."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from serve_app.classifier.choice import PassingError
from serve_app.classifier.engines import MOST_AT_ONCE
from serve_app.classifier.engines.checks import first_line
from serve_app.classifier.engines.prepared_files import COMPILED, HIGHEST_STABLEHLO, STABLEHLO, WEIGHTS
from serve_app.classifier.machine import bound_of_gpu_memory
from serve_app.errors import Fault, SetupError
from serve_app.places import CACHE_REMEDY, cache_dir

# Read when JAX finds its devices: each replica takes the memory of a GPU as it needs it, up to its share.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
from jax import export
from jax.experimental.compilation_cache import compilation_cache

TF32_SINCE = 8.0
"""Compute capability from which on XLA multiplies float32 with 10 bits of mantissa, unless asked for the highest."""
LOCK = "compiling.lock"
LOCK_TIMEOUT_S = 1500
_NO_DEVICE = (RuntimeError, AssertionError)
"""JAX asserts that there is a device where the driver's files are missing."""


class JaxEngine:
    """A network compiled for several sizes of batch; JAX's threads are per process, so one number of them each."""

    def __init__(self, folder: Path, *, threads: int, precision: str, max_batch: int, gpu_share: float) -> None:
        device = _find_device(threads, gpu_share)
        self._pads = device.platform != "cpu"
        # On a GPU the copies of one batch go on while another one is computed.
        self.at_once = MOST_AT_ONCE if self._pads else 1
        self.device = str(device.device_kind)
        self.has_tf32 = precision == "float32" and _has_tf32(device)
        try:
            network = export.deserialize(bytearray((folder / _file_of(precision)).read_bytes()))
            with np.load(folder / WEIGHTS) as kept:
                weights = [kept[name] for name in kept.files]
        except (OSError, ValueError, BadZipFile) as exc:
            raise SetupError(f"the prepared model {folder} cannot be loaded; delete that folder: {exc}") from exc
        try:
            # NumPy reads bfloat16, which it does not know, as two bytes.
            typed = [array.view(wanted.dtype) for array, wanted in zip(weights, network.in_avals, strict=False)]
            self._weights = jax.device_put(typed, device)
            self._compiled = self._compile(network, bucket_sizes(max_batch), folder / COMPILED)
            if self._pads:
                self._fill_memory(network.in_avals[-1].shape[1:])
        except RuntimeError as exc:  # JAX's own are among them
            what = f"jax cannot compute the network on {self.device}: {first_line(exc)}"
            raise SetupError(Fault("engine", what, "lower max_batch, or the number of engines on one GPU")) from exc
        except Timeout as exc:
            what = f"other processes have been compiling networks for {LOCK_TIMEOUT_S} s"
            raise SetupError(Fault("", what, f"wait for them, or end them and delete {exc.lock_file}")) from exc
        except OSError as exc:
            what = f"what jax has compiled cannot be kept in {exc.filename or folder}: {exc.strerror or exc}"
            raise SetupError(Fault("", what, CACHE_REMEDY)) from exc

    def infer(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Engine.infer."""
        parts = split_batch(len(pictures), [*self._compiled], pads=self._pads)
        scores, start = [], 0
        for size in parts:
            part = pictures[start : start + size]
            start += size
            missing = size - len(part)
            padded = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.uint8)]) if missing else part
            scores.append(np.asarray(self._compiled[size](self._weights, padded))[: len(part)])
        return scores[0] if len(scores) == 1 else np.concatenate(scores)

    def _fill_memory(self, picture: tuple[int, ...]) -> None:
        """Compute as many of the largest batch as may be under way. Compiling takes no memory for them."""
        largest = np.zeros((max(self._compiled), *picture), np.uint8)
        with ThreadPoolExecutor(self.at_once) as threads:
            list(threads.map(self.infer, [largest] * self.at_once))

    def _compile(self, network: Any, sizes: list[int], kept: Path) -> dict[int, Any]:
        """Return the network compiled for each of `sizes`; what one replica has compiled, the others find in `kept`.

        Side by side, sizes and networks of all applications are tuned amiss on a GPU: one lock is for all of them.
        """
        jax.config.update("jax_compilation_cache_dir", str(kept))
        compilation_cache.reset_cache()  # what this process has compiled before was kept elsewhere, or nowhere
        # Else the name of the folder, which is another one once the model is prepared, is part of what is looked for.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        of_weights, of_pictures = network.in_avals[:-1], network.in_avals[-1]
        shapes = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in of_weights]
        with FileLock((cache_dir() if self._pads else kept.parent) / LOCK, timeout=LOCK_TIMEOUT_S):
            return {
                size: jax.jit(network.call)
                .lower(shapes, jax.ShapeDtypeStruct((size, *of_pictures.shape[1:]), of_pictures.dtype))
                .compile()
                for size in sizes
            }


def bucket_sizes(max_batch: int) -> list[int]:
    """Return the sizes of batch for which a network is compiled, smallest first: powers of two, and `max_batch`."""
    return sorted({max_batch, *(2**power for power in range(max_batch.bit_length()))})


def split_batch(pictures: int, sizes: list[int], *, pads: bool) -> list[int]:
    """Return the compiled `sizes` in which so many pictures are computed, one after the other.

    With `pads` the last one may be larger than what is left: a GPU takes as long for five pictures as for eight. A CPU
    does not.
    """
    parts: list[int] = []
    while (left := pictures - sum(parts)) > 0:
        fitting = [size for size in sizes if size <= left]
        larger = [size for size in sizes if size >= left]
        parts.append(larger[0] if larger and (pads or not fitting) else fitting[-1])
    return parts


def _file_of(precision: str) -> str:
    return HIGHEST_STABLEHLO if precision == "highest" else STABLEHLO


def _find_device(threads: int, gpu_share: float) -> Any:
    """Return what JAX computes on. Raises SetupError if that is no GPU although the replica has been given one."""
    jax.config.update("jax_platforms", "cuda" if gpu_share else "cpu")
    os.environ.update(bound_of_gpu_memory(gpu_share))
    try:
        with _threads_of_cpu(threads):
            [device, *_] = jax.local_devices()
    except _NO_DEVICE as exc:
        raise SetupError(_no_gpu(exc)) from exc
    return device


def require_device() -> None:
    """Raise PassingError unless JAX can compute on what JAX_PLATFORMS names. Keras would blame what it does then."""
    try:
        jax.device_put(np.zeros(1, np.float32)).block_until_ready()
    except _NO_DEVICE as exc:
        raise PassingError(_no_gpu(exc)) from exc


def _no_gpu(exc: BaseException) -> Fault:
    what = f"jax finds no GPU, though ray_actor_options.num_gpus gives the replica one: {first_line(exc)}"
    return Fault("engine", what, "install the extra gpu and NVIDIA's driver, free the GPU's memory, or remove num_gpus")


@contextmanager
def _threads_of_cpu(threads: int) -> Iterator[None]:
    """Let XLA's CPU client have so many threads, if it is made meanwhile: it asks for the cores in no other way."""
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = str(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ["NPROC"]
        else:
            os.environ["NPROC"] = before


def _has_tf32(device: Any) -> bool:
    return float(getattr(device, "compute_capability", 0) or 0) >= TF32_SINCE
