"""The protobuf messages of `inference.GRPCInferenceService`, with the numbers of the protocol and of its extensions.

They are built here, not generated: generated code asks for the protobuf of its generator or a newer one.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelConfig",
    "RepositoryIndex",
)

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
    "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}
_ENTRY = "ParametersEntry"
_NAMED = "name:1:string version:2:string"
_CONTENTS = (
    "bool_contents:1:bool* int_contents:2:int32* int64_contents:3:int64* uint_contents:4:uint32* "
    "uint64_contents:5:uint64* fp32_contents:6:float* fp64_contents:7:double* bytes_contents:8:bytes*"
)
_TENSOR = "name:1:string datatype:2:string shape:3:int64* parameters:4:map contents:5:InferTensorContents"
# Fields as name:number:type; * is `repeated`, `map` is map<string, InferParameter>, and `a.b` a message within another.
MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live:1:bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready:1:bool",
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": "ready:1:bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name:1:string version:2:string extensions:3:string*",
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": "name:1:string versions:2:string* platform:3:string "
    "inputs:4:ModelMetadataResponse.TensorMetadata* outputs:5:ModelMetadataResponse.TensorMetadata*",
    "ModelMetadataResponse.TensorMetadata": "name:1:string datatype:2:string shape:3:int64*",
    "InferParameter": "bool_param:1:bool int64_param:2:int64 string_param:3:string double_param:4:double "
    "uint64_param:5:uint64",
    "InferTensorContents": _CONTENTS,
    "ModelInferRequest": "model_name:1:string model_version:2:string id:3:string parameters:4:map "
    "inputs:5:ModelInferRequest.InferInputTensor* outputs:6:ModelInferRequest.InferRequestedOutputTensor* "
    "raw_input_contents:7:bytes*",
    "ModelInferRequest.InferInputTensor": _TENSOR,
    "ModelInferRequest.InferRequestedOutputTensor": "name:1:string parameters:2:map",
    "ModelInferResponse": "model_name:1:string model_version:2:string id:3:string parameters:4:map "
    "outputs:5:ModelInferResponse.InferOutputTensor* raw_output_contents:6:bytes*",
    "ModelInferResponse.InferOutputTensor": _TENSOR,
    "ModelConfigRequest": _NAMED,
    "ModelConfigResponse": "config:1:ModelConfig",
    "ModelConfig": "name:1:string platform:2:string max_batch_size:4:int32 input:5:ModelInput* output:6:ModelOutput* "
    "dynamic_batching:11:ModelDynamicBatching backend:17:string",
    # data_type is an enum; as a number it is the same bytes.
    "ModelInput": "name:1:string data_type:2:int32 dims:4:int64*",
    "ModelOutput": "name:1:string data_type:2:int32 dims:3:int64*",
    "ModelDynamicBatching": "preferred_batch_size:1:int32*",
    "RepositoryIndexRequest": "repository_name:1:string ready:2:bool",
    "RepositoryIndexResponse": "models:1:RepositoryIndexResponse.ModelIndex*",
    "RepositoryIndexResponse.ModelIndex": "name:1:string version:2:string state:3:string reason:4:string",
}
DATA_TYPES = {"UINT8": 2, "INT32": 8, "FP32": 11, "BYTES": 13}
"""Of ModelInput.data_type and ModelOutput.data_type."""


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="inference.proto", package="inference", syntax="proto3")
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for full_name, fields in MESSAGES.items():
        parent, _, name = full_name.rpartition(".")
        message = made[parent].nested_type.add() if parent else file.message_type.add()
        message.name = name
        made[full_name] = message
        if full_name == "InferParameter":
            message.oneof_decl.add(name="parameter_choice")
        for field in fields.split():
            _add_field(message, full_name, *field.split(":"))
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, full_name: str, name: str, number: str, kind: str) -> None:
    field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if kind == "map":
        entry = message.nested_type.add(name=_ENTRY)
        entry.options.map_entry = True
        _add_field(entry, f"{full_name}.{_ENTRY}", "key", "1", "string")
        _add_field(entry, f"{full_name}.{_ENTRY}", "value", "2", "InferParameter")
        kind = f"{full_name}.{_ENTRY}*"
    if kind.endswith("*"):
        field.label = _Field.LABEL_REPEATED
    kind = kind.removesuffix("*")
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".inference.{kind}"
    if full_name == "InferParameter":
        field.oneof_index = 0


_POOL = descriptor_pool.DescriptorPool()  # of its own: other libraries may have the same names
_POOL.Add(_file())


def message_class(name: str) -> Any:
    """Return the class of a message, such as `ModelInferRequest`."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))


# Serve's own proxy, which stands in while an application has no replica, pickles messages: these need a home.
for _method in METHODS:
    for _made in (message_class(f"{_method}Request"), message_class(f"{_method}Response")):
        _made.__module__ = __name__
        globals()[_made.__name__] = _made
