"""Reads a request of the protocol's REST form: JSON, behind which raw tensors may stand (the binary extension)."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from serve_app.classifier.answer import TopK
from serve_app.errors import MalformedInference, UploadTooLarge
from serve_app.open_inference.models import OUTPUTS, ServedModel
from serve_app.open_inference.tensors import BASE64, Tensor

JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
MAX_JSON_VALUES = 1_000_000
"""Each becomes a Python object: a body of 10 MB could otherwise take a gigabyte and a second."""
_VALUE_BYTES, _KEY_BYTES = 144, 160
"""What a value takes in memory while it is parsed, and what the key of an object adds, beside the text of both."""
DEFAULT_TOP_K = 5
MAX_DIMENSIONS = 8
_MOST_FAULTS = 5
MOST_ID_CHARACTERS = 1000
_MOST_DIGITS = 18
_MOST_TIMEOUT_US = 2**64 - 1  # what protobuf has for it
_TOP_K = TypeAdapter(TopK)

Parameters = Annotated[
    dict[str, Any] | None, Field(description="Further wishes; those that are not known are ignored.")
]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


class InferInput(_Strict):
    """A tensor that the client sends."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]] = Field(max_length=MAX_DIMENSIONS)
    datatype: str
    parameters: Parameters = None
    data: list[Any] | None = Field(None, description="Values, nested or flat; absent with `binary_data_size`.")


class InferOutput(_Strict):
    """An output that the client wants."""

    name: str
    parameters: Parameters = None


class InferBody(_Strict):
    """The JSON of an inference request."""

    id: str | None = Field(None, max_length=MOST_ID_CHARACTERS, description="Comes back in the answer.")
    parameters: Parameters = None
    inputs: list[InferInput] = Field(min_length=1, max_length=len(OUTPUTS))
    outputs: list[InferOutput] | None = Field(None, max_length=len(OUTPUTS), description="Absent: all outputs.")


@dataclass(frozen=True)
class Wanted:
    """What a request asks for, whichever way it came."""

    id: str
    top_k: int
    within_s: float | None
    """The client's own time limit."""
    outputs: dict[str, bool]
    """The wanted outputs by name, and whether each is wanted as a raw tensor."""


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of `model` in one piece: OpenAPI has no place for the parts that Pydantic refers to."""
    whole = model.model_json_schema()
    parts = whole.pop("$defs", {})

    def joined(node: Any) -> Any:
        if isinstance(node, dict):
            part = node.get("$ref", "").removeprefix("#/$defs/")
            return joined(parts[part]) if part else {key: joined(value) for key, value in node.items()}
        return [joined(each) for each in node] if isinstance(node, list) else node

    found: dict[str, Any] = joined(whole)
    return found


def count_json_values(text: bytes) -> int:
    """Return how many values JSON text has at most. Raises UploadTooLarge beyond MAX_JSON_VALUES."""
    values = text.count(b",") + text.count(b"[") + text.count(b"{") + 1
    if values > MAX_JSON_VALUES:
        raise UploadTooLarge(
            f"the JSON has about {values:,} values; up to {MAX_JSON_VALUES:,} are read; send the tensor with the "
            "binary extension, or fewer pictures"
        )
    return values


def parsed_json_bytes(text: bytes) -> int:
    """Return how many bytes of memory it takes to parse JSON text, beside the text. Raises as `count_json_values`."""
    return len(text) + _VALUE_BYTES * count_json_values(text) + _KEY_BYTES * text.count(b":")


def split_body(body: bytes, json_length: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON and the raw tensors behind it, by the header JSON_LENGTH_HEADER. Raises MalformedInference.

    A body that is all JSON is not copied.
    """
    whole = memoryview(body)
    if json_length is None:
        return body, whole[len(body) :]
    if not (
        json_length.isascii()
        and json_length.isdigit()
        and len(json_length) <= _MOST_DIGITS
        and int(json_length) <= len(body)
    ):
        raise MalformedInference(
            f"the header {JSON_LENGTH_HEADER} must be how many bytes of the body are JSON, 0 to {len(body)}, in digits"
        )
    return body[: int(json_length)], whole[int(json_length) :]


def parse_request(model: ServedModel, text: bytes, raw: memoryview) -> tuple[Wanted, Tensor]:
    """Return what a request to `model` asks for, and its input. Raises MalformedInference, which names the field."""
    try:
        body = InferBody.model_validate_json(text)
    except ValidationError as exc:
        raise MalformedInference(_faults(exc)) from exc
    parameters = body.parameters or {}
    tensor = check_tensor(model, [_tensor(given, taken) for given, taken in _with_raw(body.inputs, raw)])
    wanted = Wanted(
        id=body.id or "",
        top_k=read_top_k(parameters.get("top_k", DEFAULT_TOP_K)),
        within_s=read_timeout(parameters.get("timeout")),
        outputs=_wanted(body),
    )
    return wanted, tensor


def check_tensor(model: ServedModel, tensors: list[Tensor]) -> Tensor:
    """Return the one tensor that `model` takes. Raises MalformedInference."""
    wanted = model.input
    if [tensor.name for tensor in tensors] != [wanted.name]:
        raise MalformedInference(f"inputs: the model {model.name} takes one input, named {wanted.name}")
    (tensor,) = tensors
    if tensor.datatype != wanted.datatype:
        raise MalformedInference(
            f"the input {wanted.name} of the model {model.name} must have the datatype {wanted.datatype}; other models "
            "of this service take others"
        )
    content_type = tensor.parameters.get("content_type", BASE64)
    if wanted.datatype == "BYTES" and content_type not in (BASE64, "raw"):
        raise MalformedInference(f"the input {wanted.name}: content_type must be {BASE64}, as pictures are in JSON")
    return tensor


def read_top_k(given: object) -> int:
    """Return how many classes a request wants. Raises MalformedInference."""
    try:
        return _TOP_K.validate_python(given, strict=True)
    except ValidationError as exc:
        raise MalformedInference(f"parameters.top_k: {exc.errors()[0]['msg']}") from exc


def read_timeout(given: object) -> float | None:
    """Return a client's time limit in seconds, from microseconds as Triton has them. Raises MalformedInference."""
    if given is None:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= _MOST_TIMEOUT_US:
        raise MalformedInference(
            f"parameters.timeout: must be a whole number of microseconds, from 0 to {_MOST_TIMEOUT_US}"
        )
    return given / 1_000_000 if given else None  # 0: none, with Triton


def output_names(names: list[str]) -> list[str]:
    """Return the wanted outputs, or all where none is named. Raises MalformedInference for one that there is not."""
    known = [output.name for output in OUTPUTS]
    if unknown := [name for name in names if name not in known]:
        raise MalformedInference(f"outputs: there is no output {unknown[0][:100]!r}; there are {', '.join(known)}")
    return names or known


def _faults(exc: ValidationError) -> str:
    faults = [
        f"{'.'.join(map(str, fault['loc'])) or 'the body'}: {fault['msg']}" for fault in exc.errors()[:_MOST_FAULTS]
    ]
    return "; ".join(faults)


def _with_raw(inputs: list[InferInput], raw: memoryview) -> list[tuple[InferInput, memoryview | None]]:
    """Return each input with its raw tensor, in whose order they stand. Raises MalformedInference."""
    taken: list[tuple[InferInput, memoryview | None]] = []
    for given in inputs:
        size = (given.parameters or {}).get("binary_data_size")
        if size is None:
            taken.append((given, None))
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(raw):
            raise MalformedInference(
                f"the input {given.name[:100]}: binary_data_size must be how many of the {len(raw)} bytes that are "
                "left behind the JSON are this tensor"
            )
        if given.data is not None:
            raise MalformedInference(
                f"the input {given.name[:100]} has both data and binary_data_size; send one of them"
            )
        taken.append((given, raw[:size]))
        raw = raw[size:]
    if raw:
        raise MalformedInference(
            f"{len(raw)} bytes behind the JSON belong to no input; give each its parameter binary_data_size"
        )
    return taken


def _tensor(given: InferInput, raw: memoryview | None) -> Tensor:
    if raw is None and given.data is None:
        raise MalformedInference(f"the input {given.name[:100]} has neither data nor the parameter binary_data_size")
    data = given.data if raw is None else raw
    assert data is not None
    return Tensor(given.name, given.datatype, tuple(given.shape), data, given.parameters or {})


def _wanted(body: InferBody) -> dict[str, bool]:
    """Return the wanted outputs, and whether each is wanted raw."""
    default = _flag("binary_data_output", (body.parameters or {}).get("binary_data_output", False))
    given = {output.name: output.parameters or {} for output in body.outputs or []}
    return {
        name: _flag("binary_data", given.get(name, {}).get("binary_data", default)) for name in output_names([*given])
    }


def _flag(name: str, given: object) -> bool:
    if not isinstance(given, bool):
        raise MalformedInference(f"parameters.{name}: must be true or false")
    return given
