"""Every documented value of every key of the service configs is taken, as YAML text, on both ways to a start.

YAML makes something else of some words: a bare `off` is false.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

from serve_app.cache.settings import CacheSettings
from serve_app.classifier.job_settings import JobSettings
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments import model, users
from serve_app.deployments.config_file import check_config
from serve_app.deployments.config_text import read_config, read_yaml
from serve_app.entrance.keys import KeySource
from serve_app.errors import SetupError, SetupFaults
from serve_app.users.settings import UsersSettings
from tests.service import CONFIGS, ROOT
from tests.service import read_config as shipped

REDIS = {"REDIS_URL": "redis://127.0.0.1:6379/0"}
SHA256 = "0123456789abcdef" * 4
AUTH = ["none", "{keys_env: API_KEYS}", "{keys_file: /path/to/keys}"]
WEIGHTS = ["auto", "imagenet", "random", "/path/of/w.h5", "w.keras", "https://user:password@host:8443/w.h5?token=a"]

MODELS = ["resnet50", "mobilenet_v3_small", "/path/of/m.keras", "m.h5", "https://host/m.keras"]
FILE: dict[str, object] = {"preprocessing": "none"}

# What is neither a number nor one of a few words, or does not go alone: by settings and key, each as a YAML text.
TEXTS: dict[tuple[type[BaseModel], str], list[str]] = {
    (UsersSettings, "auth"): AUTH,
    (ClassifierSettings, "auth"): AUTH,
    (ClassifierSettings, "model"): MODELS,
    (ClassifierSettings, "model_sha256"): [SHA256],
    (ClassifierSettings, "weights"): WEIGHTS,
    (ClassifierSettings, "weights_sha256"): [SHA256],
    (ClassifierSettings, "labels"): ["auto", "imagenet", "/path/of/labels.json", "labels.txt", "https://host/l.json"],
    (ClassifierSettings, "labels_sha256"): [SHA256],
    (ClassifierSettings, "agreement_pictures"): ["/path/of/pictures"],
    (ClassifierSettings, "calibration"): ["/path/of/pictures"],
    (ClassifierSettings, "cache"): ["{store: off}", "{store: memory, max_entries: 10000}"],
    (ClassifierSettings, "jobs"): ["{queue: model}"],
    (KeySource, "keys_env"): ["API_KEYS"],
    (KeySource, "keys_file"): ["/path/to/keys"],
    (JobSettings, "queue"): ["model", "a-queue_2"],
}
# What else must be said then.
BESIDE: dict[tuple[str, str], dict[str, object]] = {
    ("precision", "bfloat16"): {"engine": "openvino"},
    ("precision", "int8"): {"engine": "openvino", "calibration": "/path/of/pictures"},
    ("min_agreement", "1"): {"engine": "auto"},
    ("agreement_pictures", "/path/of/pictures"): {"engine": "auto"},
    ("calibration", "/path/of/pictures"): {"engine": "openvino", "precision": "auto"},
    ("engine", "onnxruntime"): FILE | {"model": "/path/of/m.onnx"},
    ("model", "/path/of/m.keras"): FILE,
    ("model", "m.h5"): FILE,
    ("model", MODELS[-1]): FILE | {"model_sha256": SHA256},
    ("model_sha256", SHA256): FILE | {"model": "m.keras"},
    ("weights", WEIGHTS[-1]): {"weights_sha256": SHA256},
    ("labels", "https://host/l.json"): {"labels_sha256": SHA256},
    ("weights_sha256", SHA256): {"weights": "w.h5"},
    ("labels_sha256", SHA256): {"labels": "l.json"},
    ("share", "0.5"): {"keys_env": "API_KEYS"},
    ("share", "1"): {"keys_env": "API_KEYS"},
}
# Which application's args, and where in them.
PLACES: dict[type[BaseModel], tuple[int, tuple[str, ...]]] = {
    UsersSettings: (0, ()),
    ClassifierSettings: (1, ()),
    CacheSettings: (1, ("cache",)),
    JobSettings: (1, ("jobs",)),
    KeySource: (0, ("auth",)),
}


def values_of(settings: type[BaseModel], key: str, field: FieldInfo) -> list[str]:
    """Return the documented values of a key as YAML has them: its words, or its default and its bounds."""
    if texts := TEXTS.get((settings, key)):
        return texts
    words = [word for each in [field.annotation, *get_args(field.annotation)] for word in words_in(each)]
    if words:
        return words
    numbers = {field.default} - {None}
    for bound in field.metadata if not key.endswith("_bytes") else ():  # those depend on each other
        numbers |= {getattr(bound, name) for name in ("ge", "le") if getattr(bound, name, None) is not None}
    return [str(number) for number in sorted(numbers)]


def words_in(annotation: object) -> list[str]:
    return [str(word) for word in get_args(annotation)] if get_origin(annotation) is Literal else []


def cases() -> Iterator[Any]:
    for settings in PLACES:
        for key, field in settings.model_fields.items():
            for value in values_of(settings, key, field):
                yield pytest.param(settings, key, value, id=f"{settings.__name__}.{key}: {value}")


def config_text(settings: type[BaseModel], key: str, value: str) -> str:
    """Return a shipped config in which `value` stands at the key as it is."""
    config = shipped("one_replica.yaml")
    number, path = PLACES[settings]
    args = config["applications"][number]["args"]
    for step in path:
        args = args.setdefault(step, {})
    args |= BESIDE.get((key, value), {})
    for alone in ("weights", "labels") if "model" in args or (key == "model" and value not in MODELS[:2]) else ():
        args.pop(alone)  # of the shipped config: auto, as by default
    args[key] = "VALUE"
    return yaml.dump(config, Dumper=yaml.CSafeDumper).replace("VALUE", value)


def refusal_of(build: Any, args: dict[str, Any]) -> tuple[str, ...]:
    """Build the application and return what it is refused for."""
    try:
        assert call_user_app_builder_with_args_if_necessary(build, args)
    except SetupFaults as exc:
        return exc.lines
    return ()


@pytest.mark.parametrize(("settings", "key", "value"), list(cases()))
def test_a_documented_value_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: type[BaseModel], key: str, value: str
) -> None:
    for variable, address in REDIS.items():
        monkeypatch.setenv(variable, address)
    path = tmp_path / "config.yaml"
    path.write_text(config_text(settings, key, value))

    config = read_config(path)
    check_config(config, path)

    for read in (yaml.load(path.read_text(), yaml.CSafeLoader), json.loads(json.dumps(config))):
        schema = ServeDeploySchema.model_validate(read)
        builders: tuple[Any, ...] = (users.build, model.build)
        for application, build in zip(schema.applications, builders, strict=True):
            for line in refusal_of(build, application.args):  # the value is taken; the file that it names is not there
                assert key.startswith(("model", "weights", "labels", "agreement", "calibration")) or value in (
                    "onnxruntime", "int8",
                )  # fmt: skip
                assert re.match(
                    r"(model|weights|labels): .* cannot be|(agreement_pictures|calibration): .* is no f", line
                )


def test_no_key_is_left_out() -> None:
    """Each has a value of its own in the list above, and words that are none of its values are refused there."""
    tried = {(case.values[0], case.values[1]) for case in cases()}
    assert tried == {(settings, key) for settings in PLACES for key in settings.model_fields}
    values = {case.values[2] for case in cases()}
    assert {"off", "auto", "redis", "memory", "none", "tensorflow", "openvino", "bfloat16", "imagenet"} <= values


def test_the_words_that_the_pages_name_for_the_store_are_those_of_the_settings() -> None:
    named = set()
    for page in ("README.md", "docs/redis.md", "configs/one_replica.yaml"):
        named |= set(re.findall(r"\bstore: (\w+)", (ROOT / page).read_text()))
    row = next(
        line for line in (ROOT / "docs/configuration.md").read_text().splitlines() if line.startswith("| `store`")
    )
    assert set(re.findall(r"`(\w+)`", row.split(" | ")[3])) == {"auto", "redis", "memory", "off"} >= named
    assert len(named) > 1


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_what_a_config_explains_in_a_comment_can_be_written_as_it_stands(name: str) -> None:
    text = (CONFIGS / name).read_text()
    auth = re.findall(r"# auth: (\{\S+: \S+\}) +API keys; or (\{\S+: \S+\}), or (\w+)", text)
    assert len(auth) == (name != "cluster.yaml")  # which has it written out
    for value in auth[0] if auth else ():
        assert UsersSettings.model_validate({"auth": yaml.safe_load(value)}).auth is not None
    words = re.findall(r"^ +(\w+): (\w+) +# or (\w+(?:, \w+)*)", text, re.MULTILINE)
    of_one_model = ["encoding", "log_level", "engine", "store"]
    assert [key for key, *_ in words] == (
        [] if name in {"fastest.yaml", "gpu.yaml", "two_models.yaml"} else of_one_model
    )
    for key, default, others in words:
        for value in others.split(", "):
            changed = text.replace(f" {key}: {default} ", f" {key}: {value} ")
            assert changed != text
            check_config(read_yaml(changed), Path(name))


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR"])
@pytest.mark.parametrize("encoding", ["JSON", "TEXT"])
@pytest.mark.parametrize("access_log", ["off", "false", "on", "true"])
def test_serves_own_words_are_taken(tmp_path: Path, level: str, encoding: str, access_log: str) -> None:
    config = shipped("one_replica.yaml")
    config["logging_config"] = {"encoding": encoding, "log_level": level, "enable_access_log": "VALUE"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config).replace("VALUE", access_log))
    check_config(read_config(path), path)


@pytest.mark.parametrize("word", ["no", "false", "on", "yes", "'OFF'", "Memory", "none", "null", "0"])
def test_other_words_for_the_store_are_refused_by_name(tmp_path: Path, word: str) -> None:
    """Of those that YAML takes for false only `off` is documented; what it makes of them cannot be told apart."""
    path = tmp_path / "config.yaml"
    path.write_text(config_text(CacheSettings, "store", word))
    if yaml.safe_load(word) is False:
        check_config(read_config(path), path)
        return
    with pytest.raises(SetupError, match=r"args\.cache\.store: must be 'auto', 'redis', 'memory' or 'off'"):
        check_config(read_config(path), path)
