"""The models of the protocol: one network under a name for each datatype that it takes, and what clients are told.

A client such as perf_analyzer sends every input that a model lists, so what is either-or is a model each.
"""

from dataclasses import dataclass
from importlib.metadata import version

from pydantic import BaseModel, Field

from serve_app.errors import NotFound
from serve_app.spelling import nearest

SERVER = "serve-app"
VERSION = "1"
"""Of every model: a replica has one version of its network."""
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository")
# No "statistics": perf_analyzer would then ask for them.
_CONFIG_TYPES = {"BYTES": "TYPE_STRING", "UINT8": "TYPE_UINT8", "FP32": "TYPE_FP32", "INT32": "TYPE_INT32"}
_MOST_NAME_CHARACTERS = 100


class TensorInfo(BaseModel):
    """An input or output of a model; -1 in the shape stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model takes and returns."""

    name: str
    versions: list[str]
    platform: str = Field(description="The engine that computes the model.")
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class ServerMetadata(BaseModel):
    """Who answers, and which extensions of the protocol it has."""

    name: str = SERVER
    version: str = Field(default_factory=lambda: version(SERVER))
    extensions: list[str] = list(EXTENSIONS)


@dataclass(frozen=True)
class ServedModel:
    """One name under which the network is served, and its one input."""

    name: str
    input: TensorInfo


OUTPUTS = (
    TensorInfo(name="labels", datatype="BYTES", shape=[-1, -1]),
    TensorInfo(name="class_ids", datatype="INT32", shape=[-1, -1]),
    TensorInfo(name="probabilities", datatype="FP32", shape=[-1, -1]),
)
"""Of every model: the best classes of each picture, best first."""


class ServedModels:
    """The models of one replica."""

    def __init__(self, network: str, engine: str, most_pictures: int) -> None:
        """`most_pictures` is how many one request may have."""
        self._engine = engine
        self.most_pictures = most_pictures
        pixels = [-1, -1, -1, 3]
        inputs = {
            network: TensorInfo(name="pictures", datatype="BYTES", shape=[-1]),
            f"{network}_uint8": TensorInfo(name="pixels", datatype="UINT8", shape=pixels),
            f"{network}_fp32": TensorInfo(name="pixels", datatype="FP32", shape=pixels),
        }
        self._models = {name: ServedModel(name, tensor) for name, tensor in inputs.items()}

    @property
    def names(self) -> list[str]:
        """Return all names."""
        return list(self._models)

    def find(self, name: str, given_version: str = "") -> ServedModel:
        """Return the model of this name. Raises NotFound, also for a version that there is not."""
        if name not in self._models:
            near = nearest(name[:_MOST_NAME_CHARACTERS], self._models)
            others = f"did you mean {near}?" if near else f"there are {', '.join(self._models)}"
            raise NotFound(f"there is no model {name[:_MOST_NAME_CHARACTERS]!r}; {others}")
        if given_version not in ("", VERSION):
            shown = given_version[:_MOST_NAME_CHARACTERS]
            raise NotFound(f"the model {name} has no version {shown!r}; its only version is {VERSION}")
        return self._models[name]

    def describe(self, model: ServedModel) -> ModelMetadata:
        """Return what clients are told of a model."""
        return ModelMetadata(
            name=model.name,
            versions=[VERSION],
            platform=self._engine,
            inputs=[model.input],
            outputs=list(OUTPUTS),
        )

    def configure(self, model: ServedModel) -> dict[str, object]:
        """Return Triton's configuration of a model, as far as clients read it; dimensions are without the first."""
        return {
            "name": model.name,
            "platform": self._engine,
            "backend": self._engine,
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": self.most_pictures,
            "input": [_configured(model.input)],
            "output": [_configured(output) for output in OUTPUTS],
            "dynamic_batching": {},
            "instance_group": [{"name": model.name, "kind": "KIND_CPU", "count": 1}],
        }


def _configured(tensor: TensorInfo) -> dict[str, object]:
    return {"name": tensor.name, "data_type": _CONFIG_TYPES[tensor.datatype], "dims": tensor.shape[1:] or [1]}
