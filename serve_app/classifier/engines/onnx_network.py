"""A network in an ONNX file as one function from pixels to probabilities. Called by `prepare`. Imports no Keras."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from serve_app.classifier.engines.checks import NetworkFacts, check_side, first_line, judge_outputs
from serve_app.classifier.engines.model_file import check_model_file
from serve_app.classifier.engines.prepared_files import ONNX_MODEL, OPENVINO_MODEL, OnnxInput, probe
from serve_app.classifier.engines.source_file import copied
from serve_app.classifier.families import PREPROCESSING
from serve_app.classifier.settings import ClassifierSettings, file_name, shown
from serve_app.errors import SetupError

CHANNELS = 3
RANK = 4
WHOLE_PIXELS = ("uint8", "int32", "int64")
"""Integers of an input that both engines give pixels 0–255 as they are."""


@dataclass(frozen=True)
class OnnxNetwork:
    """A network with known input and outputs, in the engine that computes it."""

    facts: NetworkFacts
    reader: "_Reader"

    def save(self, folder: Path) -> str:
        """See Network.save."""
        self.reader.save(folder, is_logits=self.facts.outputs == "logits")
        return "cpu"


class _Reader(Protocol):
    """An engine that has read a file."""

    shape: list[int | None]
    """Of the input; None where the file leaves a size open."""

    integers: str | None
    """NumPy's name of what the input takes if that is integers."""

    def set_input(self, found: OnnxInput) -> None:
        """Take uint8 RGB pictures, shape (n, side, side, 3), from now on."""

    def infer(self, pictures: Any) -> Any:
        """Return what the network returns."""

    def save(self, folder: Path, *, is_logits: bool) -> None:
        """Write the prepared model."""


def obtain_network(settings: ClassifierSettings) -> OnnxNetwork:
    """Return the network that `settings` ask for. Raises SetupError if it cannot be had, or cannot be served."""
    name = shown(settings.model)
    assert settings.preprocessing != "auto"  # ClassifierSettings asks for it
    # A file may name others that hold its weights, by any path. Where it lies alone, none is found.
    with copied("model", settings.model, settings.model_sha256) as file:
        check_model_file(file.path, name)
        try:
            reader: _Reader = (_OpenVino if settings.engine == "openvino" else _OnnxRuntime).read(file.path)
            given = _input_of(name, reader, settings)
            reader.set_input(given)
            pictures = probe(given.side)
            scores = np.asarray(reader.infer(pictures), np.float32)
            one = np.asarray(reader.infer(pictures[:1]), np.float32)
        except SetupError:
            raise
        except Exception as exc:  # both engines raise types of their own, some of them bare RuntimeErrors
            raise SetupError(
                f"model: {name} cannot be computed by engine: {settings.engine}: {first_line(exc)}; is it complete, "
                "with its weights in the same file?"
            ) from exc
        if scores.ndim != 2 or len(scores) != len(pictures) or not np.allclose(scores[:1], one, atol=1e-2):  # noqa: PLR2004
            raise SetupError(
                f"model: {name} returns an array of shape {scores.shape} for {len(pictures)} pictures; it "
                "must return one row of scores for each picture"
            )
        outputs = judge_outputs(name, scores, settings.outputs)
        base = file_name(settings.model)
        facts = NetworkFacts(base, base, file.sha256, settings.preprocessing, given.side, scores.shape[1], outputs)
        return OnnxNetwork(facts, reader)


def _input_of(name: str, reader: _Reader, settings: ClassifierSettings) -> OnnxInput:
    shape, integers = reader.shape, reader.integers
    is_first = len(shape) == RANK and shape[1] == CHANNELS
    if not is_first and not (len(shape) == RANK and shape[3] == CHANNELS):
        raise SetupError(
            f"model: {name} has an input of shape {tuple(shape)}; it must take RGB pictures: (n, 3, side, side) or "
            "(n, side, side, 3)"
        )
    height, width = shape[2:] if is_first else shape[1:3]
    if shape[0] not in (None, 1):
        raise SetupError(
            f"model: {name} takes exactly {shape[0]} pictures at once; export it with a dynamic batch size"
        )
    assert settings.preprocessing != "auto"
    if integers not in (None, *WHOLE_PIXELS):
        raise SetupError(f"model: {name} has an input of {integers}; export it with an input of float32 or uint8")
    if integers is not None and settings.preprocessing != "none":
        raise SetupError(
            f"preprocessing: {settings.preprocessing} makes fractions, and the input of {name} takes {integers}; write "
            "`preprocessing: none` if its own layers scale the pixels, or export it with an input of float32"
        )
    return OnnxInput(
        side=check_side(name, height, width, settings.crop),
        channels_first=is_first,
        one_at_a_time=shape[0] == 1,
        preprocessing=PREPROCESSING[settings.preprocessing],
    )


class _OpenVino:
    """The file as OpenVINO reads it; scaling becomes a part of the network."""

    def __init__(self, model: Any) -> None:
        self._model = model
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise SetupError("model: it has several inputs or outputs; export it with one input and one output")
        self.shape = [size.get_length() if size.is_static else None for size in model.inputs[0].partial_shape]
        takes = model.inputs[0].element_type
        self.integers = takes.to_dtype().name if takes.is_integral() else None

    @classmethod
    def read(cls, path: Path) -> Self:
        import openvino

        return cls(openvino.Core().read_model(path))

    def set_input(self, found: OnnxInput) -> None:
        from openvino import Layout, Type
        from openvino.preprocess import ColorFormat, PrePostProcessor

        side = found.side
        self._model.reshape([-1, CHANNELS, side, side] if found.channels_first else [-1, side, side, CHANNELS])
        steps = PrePostProcessor(self._model)
        steps.input().tensor().set_element_type(Type.u8).set_layout(Layout("NHWC")).set_color_format(ColorFormat.RGB)
        steps.input().model().set_layout(Layout("NCHW" if found.channels_first else "NHWC"))
        scaling = found.preprocessing
        work = steps.input().preprocess().convert_element_type(Type.f32).mean([*scaling.mean]).scale([*scaling.scale])
        if scaling.is_bgr:
            work.convert_color(ColorFormat.BGR)
        steps.output().tensor().set_element_type(Type.f32)
        self._model = steps.build()

    def infer(self, pictures: Any) -> Any:
        import openvino

        from serve_app.classifier.engines.openvino_engine import FOR_REPLICAS

        return openvino.Core().compile_model(self._model, "CPU", FOR_REPLICAS)(pictures)[0]

    def save(self, folder: Path, *, is_logits: bool) -> None:
        import openvino
        from openvino import opset13

        model = self._model
        if is_logits:
            scores = model.get_results()[0].input_value(0)
            served = [opset13.result(opset13.softmax(scores, axis=1))]
            model = openvino.Model(served, model.get_parameters(), "served")
        openvino.save_model(model, folder / OPENVINO_MODEL, compress_to_fp16=False)


class _OnnxRuntime:
    """The file as ONNX Runtime reads it; scaling stays with the engine."""

    def __init__(self, path: Path) -> None:
        from serve_app.classifier.engines.onnxruntime_engine import open_session

        self._data = path.read_bytes()
        self._session = open_session(path, threads=1)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(self._session.get_outputs()) != 1:
            raise SetupError("model: it has several inputs or outputs; export it with one input and one output")
        self.shape = [size if isinstance(size, int) else None for size in inputs[0].shape]
        takes = inputs[0].type.removeprefix("tensor(").removesuffix(")")
        self.integers = takes if takes.startswith(("int", "uint", "bool")) else None
        self._input: OnnxInput | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(path)

    def set_input(self, found: OnnxInput) -> None:
        self._input = found

    def infer(self, pictures: Any) -> Any:
        from serve_app.classifier.engines.onnxruntime_engine import run_session

        assert self._input is not None
        return run_session(self._session, self._input, pictures)

    def save(self, folder: Path, *, is_logits: bool) -> None:
        assert self._input is not None
        (folder / ONNX_MODEL).write_bytes(self._data)
        self._input.write(folder, is_logits=is_logits)
