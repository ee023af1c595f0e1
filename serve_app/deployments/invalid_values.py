"""What pydantic says of the values in a config, in one line with key and remedy. Called by `config_file`."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined
from ray.serve._private.config import DeploymentConfig
from ray.serve._private.utils import DEFAULT
from ray.serve.schema import DeploymentSchema

from serve_app.entrance.keys import REMEDY
from serve_app.errors import Fault
from serve_app.spelling import nearest

_SUBJECT = re.compile(r"^(?:Input|String|Value|List|Dictionary) should ")
_OWN_KEY = re.compile(r"(\w+): (.*)", re.DOTALL)
"""How a validator of a whole model begins: with the key that it is about."""
_MAPPING = re.compile(r"must be a valid dictionary.*|must be an object.*")
_OPTIONS = re.compile(r"'([^']*)'")
_PAGE = "docs/configuration.md describes it"
# What Serve's own validators say without a remedy.
_REMEDIES: Mapping[str, str] = {
    "num_replicas is not allowed when autoscaling_config": "remove one of the two keys",
    "must be greater than or equal to min_replicas": "raise max_replicas, or lower min_replicas",
    "`num_replicas` must be an int": "write a whole number, or auto",
    "Found multiple configs for application": "give each application another name",
    "Found duplicate applications for route prefix": "give each application another route_prefix",
    "Got invalid import path": "write, for example, serve_app.deployments.model:build",
}


def find_invalid_values(where: str, given: object, schema: type[BaseModel]) -> Iterator[Fault]:
    """Yield what pydantic says of a value, once for each place: of a union, each member says something.

    Some of Serve's own validators fail on what they do not expect: of that, one fault for all of the value.
    """
    told: set[str] = set()
    try:
        schema.model_validate(given)
    except ValidationError as exc:
        for error in exc.errors(include_url=False, include_context=False):
            is_of_another_member = error["type"] == "literal_error" and isinstance(error["input"], dict)
            if error["type"] == "extra_forbidden" or is_of_another_member:  # the first is told already
                continue
            fault = _fault(where, given, schema, error)
            if fault.key not in told:
                told.add(fault.key)
                yield fault
    except Exception as exc:
        if not schema.__module__.startswith("ray."):
            raise
        yield Fault(where or "applications", f"Serve cannot read it ({type(exc).__name__})", _PAGE)


def serve_default(schema: type[BaseModel], key: str) -> object:
    """Return what is taken where a config lacks a key of a schema; PydanticUndefined where it may not."""
    fields = schema.model_fields
    if schema is DeploymentSchema and key in DeploymentConfig.model_fields:  # the schema says only: as in the code
        fields = DeploymentConfig.model_fields
    default = fields[key].get_default(call_default_factory=True)
    return None if default is DEFAULT.VALUE else default


def model_in(annotation: object) -> type[BaseModel] | None:
    """Return the pydantic model in an annotation such as Optional[List[Model]]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := model_in(inner))), None)


def shown(value: float | None) -> str:
    """Return a number, true, false or nothing as YAML has it."""
    return json.dumps(value)


def _fault(where: str, given: object, schema: type[BaseModel], error: ErrorDetails) -> Fault:
    location, value = error["loc"], error["input"]
    place, words = _place(where, given, location), _words(error)
    if place.endswith(".args.auth") and not isinstance(value, dict):
        words, remedy = "must be none, {keys_env: NAME} or {keys_file: /path}", REMEDY
    else:
        remedy = _remedy(error, words, _field_at(schema, location))
    if (named := _OWN_KEY.fullmatch(words)) and named[1] in (_model_at(schema, location) or schema).model_fields:
        place, words = f"{place}.{named[1]}", named[2]
    # A text may be an address with a password, or a key that somebody wrote there.
    told = f" (given: {shown(value)})" if isinstance(value, bool | int | float | None) else ""
    return Fault(place, words + told, remedy)


def _words(error: ErrorDetails) -> str:
    if "runtime_env" in error["loc"]:
        return "Serve cannot use it"  # its words quote URLs, of which one for private code holds a token
    if error["type"] == "missing":
        return "missing"
    words = " ".join(error["msg"].removeprefix("Value error, ").split()).rstrip(".!")
    return _MAPPING.sub("must have keys of its own", _SUBJECT.sub("must ", words))


def _remedy(error: ErrorDetails, words: str, field: tuple[type[BaseModel], str] | None) -> str:
    if ";" in words:  # our validators name it
        return ""
    for part, remedy in _REMEDIES.items():
        if part in words:
            return remedy
    if error["type"] in ("literal_error", "enum") and (meant := nearest(str(error["input"]), _OPTIONS.findall(words))):
        return f"did you mean {meant}?"
    default = PydanticUndefined if field is None else serve_default(*field)
    if default is None:
        return "correct it, or remove the key"
    if not isinstance(default, str | int | float):
        return _PAGE
    default = str(getattr(default, "value", default)).removesuffix(".0")
    # Of a deployment, the default is that of the application, which has others than Serve.
    is_told = default and field is not None and field[0] is not DeploymentSchema
    return "correct it, or remove the key to use the default" + (f", {default}" if is_told else "")


def _field_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> tuple[type[BaseModel], str] | None:
    """Return the schema and the key at the end of a location. Pydantic's has the members of unions in it, too."""
    found, inner = None, schema
    for step in location:
        if isinstance(step, str) and step in inner.model_fields:
            found = inner, step
            inner = model_in(inner.model_fields[step].annotation) or inner
    return found


def _model_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the schema of the mapping at a location, None if it is not that of a model."""
    field = _field_at(schema, location)
    return model_in(field[0].model_fields[field[1]].annotation) if field else schema


def _place(where: str, given: object, location: tuple[int | str, ...]) -> str:
    """Return where a fault is, items by their names."""
    place, value = where, given
    for step in location:
        if isinstance(value, list) and isinstance(step, int):
            value = value[step]
            place += f"[{value['name'] if isinstance(value, dict) and 'name' in value else step}]"
        elif isinstance(value, dict) and str(step).isidentifier():
            value = value.get(step)
            place += f".{step}" if place else str(step)
    return place
