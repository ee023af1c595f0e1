"""Checks the keys of a YAML file against a model. Used for plans, tune files, fault plans and audited tables."""

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from loadtest.errors import BadInputError

_Model = TypeVar("_Model", bound=BaseModel)


class Strict(BaseModel):
    """Part of a file. An unknown key is an error: a misspelled one in a plan would change what is measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _check_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as exc:
        raise ValueError(f"not a regular expression: {exc}") from exc
    return text


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w-]*$")]
Pattern = Annotated[str, AfterValidator(_check_pattern)]
NonNegativeFinite = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def check_keys(path: Path, raw: dict[str, Any], model: type[_Model]) -> _Model:
    """Return `raw`, the content of the file at `path`, as a `model`. Raises BadInputError with all faults."""
    try:
        return model.model_validate(raw)
    except ValidationError as exc:
        raise BadInputError("\n".join(_faults(path, exc, model))) from exc


def _faults(path: Path, exc: ValidationError, model: type[BaseModel]) -> list[str]:
    lines = []
    for error in exc.errors(include_url=False):
        where = ".".join(map(str, error["loc"]))
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = f"is not a key here; allowed: {', '.join(_keys_at(error['loc'][:-1], model))}"
        elif error["type"] not in ("missing", "value_error") and not isinstance(error["input"], dict):
            message = f"{message}, not {error['input']!r}"
        lines.append(f"{path}: {where}: {message}" if where else f"{path}: {message}")
    return lines


def _keys_at(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """Return the keys that the part of `model` at `location` knows."""
    schema: Any = model.model_json_schema()
    here = schema
    for part in location:
        named = here.get("properties", {}).get(part)
        of_any_name = [here.get("items"), here.get("additionalProperties"), *here.get("patternProperties", {}).values()]
        here = _resolved(schema, named or next(filter(None, of_any_name), {}))
    return list(here.get("properties", {}))


def _resolved(schema: Any, part: Any) -> Any:
    if "anyOf" in part:
        part = next((option for option in part["anyOf"] if "$ref" in option), part)
    return schema["$defs"][part["$ref"].rsplit("/", 1)[-1]] if "$ref" in part else part
