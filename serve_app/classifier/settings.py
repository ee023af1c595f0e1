"""The classifier's settings, as written under `args:` of the `model` application in configs/*.yaml."""

import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from serve_app.address import AddressFault, read_address
from serve_app.cache.settings import CacheSettings
from serve_app.classifier.families import FAMILIES, PreprocessingName
from serve_app.classifier.job_settings import JobSettings
from serve_app.entrance.keys import AUTH_MEANING, Auth
from serve_app.places import without_zero_byte
from serve_app.spelling import nearest

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", to_lower=True)]
# Pillow refuses pictures beyond twice its own limit, whatever we allow.
MAX_PIXELS = 178_956_970
MOST_THREADS = 256
# Part headers, boundaries and a few stray text fields around the picture.
MULTIPART_OVERHEAD_BYTES = 16_384
SOURCE_WORDS: Mapping[str, Collection[str]] = {
    "model": FAMILIES,
    "weights": ("auto", "imagenet", "random"),
    "labels": ("auto", "imagenet"),
}
"""The values of a key that are neither a file nor a URL."""
USUAL_AGREEMENT = 0.99
WEIGHTS_SUFFIXES = (".h5", ".keras")
ONNX_SUFFIX = ".onnx"
MODEL_SUFFIXES = (".keras", ".h5", ONNX_SUFFIX)
Source = Annotated[str, StringConstraints(min_length=1), AfterValidator(without_zero_byte)]

_URL_SCHEMES = ("http", "https")
_LOGIN_WITHOUT_SCHEME = re.compile(r":[^@]*@")
"""Of a URL whose `://` is mistyped; taken for a path it would be shown."""


class ClassifierSettings(BaseModel):
    """What to serve and within which bounds. A misspelled key is an error, not a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    auth: Auth = Field(None, description=AUTH_MEANING)
    model: Source = Field(
        "resnet50",
        description="What to serve: a network of Keras by name (`resnet50`, `mobilenet_v3_small`, …), "
        "or the path or URL of a model file: Keras (.keras, or .h5 with the architecture) or .onnx; docs/models.md.",
    )
    model_sha256: Sha256 | None = Field(
        None, description="Checksum of the model file (sha256sum of the file); needed with a URL."
    )
    preprocessing: Literal["auto"] | PreprocessingName = Field(
        "auto",
        description="How pixels become the network's input: `resnet50` (Keras' mode caffe), `torchvision`, "
        "`scale_0_1`, `scale_minus1_1`, or `none` (pixels 0–255: the network has layers for it). `auto`: that of the "
        "named network; a model file needs one of the others.",
    )
    resize: int | None = Field(
        None,
        ge=8,
        le=4096,
        description="Pictures are scaled to this shorter side before the central square is cut out. Default: the crop "
        "÷ 0.875, as ImageNet networks are evaluated (256 for 224).",
        json_schema_extra={"unit": "pixels"},
    )
    crop: int | None = Field(
        None,
        ge=8,
        le=4096,
        description="Side of the central square that the network gets. Default: the network's own input size; needed "
        "where a model file leaves it open.",
        json_schema_extra={"unit": "pixels"},
    )
    outputs: Literal["auto", "probabilities", "logits"] = Field(
        "auto",
        description="What the network returns. `auto` finds out by running it; logits become probabilities (softmax).",
    )
    engine: Literal["tensorflow", "openvino", "onnxruntime", "jax", "auto"] = Field(
        "tensorflow",
        description="What computes the network. `openvino`, `onnxruntime` and `jax` are extras; `openvino` needs about "
        "half the memory. .onnx files are computed by `openvino` and `onnxruntime`, which computes nothing else. `jax` "
        "computes on a GPU if `ray_actor_options` has `num_gpus` (extra `gpu`). `auto`: the fastest one that is "
        "installed and agrees with float32; docs/engines.md.",
    )
    precision: Literal["float32", "bfloat16", "int8", "auto"] = Field(
        "float32",
        description="Arithmetic of the engine. `bfloat16` is for openvino and jax, and for tensorflow if the processor "
        "has it. `float32` of jax on a GPU is TF32. `int8` is for openvino, with the extra `int8` and `calibration`. "
        "`auto`: the fastest one that agrees with float32.",
    )
    min_agreement: float = Field(
        USUAL_AGREEMENT,
        gt=0,
        le=1,
        description="Least share of pictures of which an engine that `auto` chooses, or `precision: int8`, names the "
        "same best class as float32.",
        json_schema_extra={"unit": "–"},
    )
    agreement_pictures: Source | None = Field(
        None,
        description="A folder of pictures on which `auto` measures agreement, besides generated ones; up to 256 of "
        "them are taken.",
    )
    calibration: Source | None = Field(
        None,
        description="A folder of at least 200 pictures like those to be classified. Half of them, up to 300, decide "
        "how `precision: int8` rounds; as many others decide whether it agrees with float32. docs/engines.md.",
    )
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] | Literal["auto"] = Field(
        1,
        description="Engine threads of one replica, 1 to 256. threads × num_replicas should be the cores of the "
        "machine. `auto`: the replica's `num_cpus` if that is 1 or more, else the cores of its node ÷ the replicas "
        "there.",
        json_schema_extra={"unit": "threads"},
    )
    shared_engine: bool = Field(
        default=False,
        description="Whether the replicas only take and decode pictures, and one engine in a deployment of its own, "
        "`Engine`, computes those of all of them. For engines that are faster than one replica can take and decode; "
        "docs/models.md.",
    )
    weights: Source = Field(
        "auto",
        description="`imagenet`: ImageNet weights, or no start. `random`: seeded random ones, with which predictions "
        "mean nothing. `auto`: imagenet if they can be fetched, else random with a warning in every answer. Or the "
        "path of a Keras file (.h5, .keras), or its URL; it decides how many classes there are. A model file has its "
        "own weights.",
    )
    weights_sha256: Sha256 | None = Field(
        None, description="Checksum of the weights (sha256sum of the file); needed with a URL."
    )
    labels: Source = Field(
        "auto",
        description="Names of the classes: `imagenet`, a file with one name a line or a JSON list, or its URL. `auto`: "
        "those of ImageNet for a named network with 1000 classes if they can be fetched, else placeholders.",
    )
    labels_sha256: Sha256 | None = Field(
        None, description="Checksum of the labels (sha256sum of the file); needed with a URL."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of random weights.", json_schema_extra={"unit": "–"})
    max_batch: int = Field(
        8,
        ge=1,
        le=128,
        description="Most pictures in one run of the engine. More than 8 gains nothing on CPUs.",
        json_schema_extra={"unit": "pictures"},
    )
    max_queue: int = Field(
        512,
        ge=1,
        description="Most pictures of one replica in decoding, waiting or in the engine; beyond: 503.",
        json_schema_extra={"unit": "pictures"},
    )
    max_wait_s: float = Field(
        6.0,
        gt=0,
        le=600,
        description="Longest estimated queueing time of a new picture; beyond: 503 with Retry-After. Enough for the "
        "queue that forms while replicas are replaced under a usual load. From 10 to 20 s after the "
        "queue was last short it falls steadily to half: then more arrives than is done, and waiting longer helps no "
        "client.",
    )
    deadline_s: float = Field(
        10.0,
        gt=0,
        le=600,
        description="Longest time from the upload's end to the answer; beyond: 504. A client may ask for less with the "
        "header X-Deadline-Ms.",
    )
    decode_threads: int = Field(
        2, ge=1, le=64, description="Threads that decode pictures.", json_schema_extra={"unit": "threads"}
    )
    reduced_decoding: bool = Field(
        default=True,
        description="Whether JPEGs whose shorter side is four times `resize` or more are decoded at 1/2, 1/4 or 1/8 of "
        "their size, in less time. `false`: at their size. docs/evaluate.md compares the answers.",
    )
    max_upload_bytes: int = Field(10_000_000, ge=1, description="Largest picture file; beyond: 413.")
    upload_timeout_s: float = Field(30.0, gt=0, le=600, description="Longest time for an upload; beyond: 408.")
    max_request_pictures: int = Field(
        64,
        ge=1,
        le=1024,
        description="Most pictures in one request of the Open Inference Protocol, each of which has a place in the "
        "queue; beyond: 413.",
        json_schema_extra={"unit": "pictures"},
    )
    max_held_bytes: int = Field(
        268_435_456, ge=1, description="Most bytes of uploads in the memory of one replica; beyond: 503."
    )
    max_pixels: int = Field(
        50_000_000,
        ge=1,
        le=MAX_PIXELS,
        description="Most pixels of a picture, read from its header before decoding; beyond: 413.",
        json_schema_extra={"unit": "pixels"},
    )
    cache: CacheSettings = Field(
        CacheSettings(), description="Whether equal bytes are computed once; see docs/redis.md."
    )
    niceness: int = Field(
        10,
        ge=0,
        le=19,
        description="CPU priority of decoding and engine: 0 as everything else, 19 only what nothing else wants.",
        json_schema_extra={"unit": "nice value"},
    )
    jobs: JobSettings = Field(
        default_factory=JobSettings, description="Bounds of the durable jobs, which need REDIS_URL; see docs/redis.md."
    )

    @model_validator(mode="after")
    def _one_upload_fits_into_memory(self) -> Self:
        least = self.max_upload_bytes + MULTIPART_OVERHEAD_BYTES
        if self.max_held_bytes < least:
            raise ValueError(
                f"max_held_bytes: must be at least {least}, max_upload_bytes and {MULTIPART_OVERHEAD_BYTES}; raise it, "
                "or lower max_upload_bytes"
            )
        return self

    @field_validator("model", "weights", "labels")
    @classmethod
    def _a_url_can_be_read(cls, source: str) -> str:
        if "://" in source:
            try:
                address = read_address(source)
            except AddressFault as exc:
                raise ValueError(f"the URL cannot be used: {exc}") from None
            if address.scheme not in _URL_SCHEMES or address.host is None:
                raise ValueError("a URL must begin with https:// or http:// and a host")
        elif _LOGIN_WITHOUT_SCHEME.search(source):
            raise ValueError("this is neither a path nor a URL: a URL begins with https:// or http://")
        return source

    @model_validator(mode="after")
    def _urls_need_a_checksum(self) -> Self:
        for field in SOURCE_WORDS:
            if is_url(getattr(self, field)) and getattr(self, f"{field}_sha256") is None:
                raise ValueError(f"{field}_sha256: {field} is a URL; give {field}_sha256 too (sha256sum of the file)")
        return self

    @model_validator(mode="after")
    def _keras_judges_weights_by_their_suffix(self) -> Self:
        words = SOURCE_WORDS["weights"]
        if self.weights not in words and not self.weights.partition("?")[0].endswith(WEIGHTS_SUFFIXES):
            raise ValueError(
                f"weights: must be {', '.join(words)}, or a file whose name ends in "
                f"{' or '.join(WEIGHTS_SUFFIXES)}; correct the word or the name"
            )
        return self

    @model_validator(mode="after")
    def _checksums_need_a_file(self) -> Self:
        for field, words in SOURCE_WORDS.items():
            if getattr(self, f"{field}_sha256") and getattr(self, field) in words:
                raise ValueError(
                    f"{field}_sha256: belongs to a file or URL; remove it with {field}: {getattr(self, field)}"
                )
        return self

    @model_validator(mode="after")
    def _onnxruntime_has_no_bfloat16(self) -> Self:
        if self.precision == "bfloat16" and self.engine == "onnxruntime":
            raise ValueError("precision: bfloat16 needs engine: openvino; with onnxruntime use float32")
        return self

    @model_validator(mode="after")
    def _int8_is_calibrated(self) -> Self:
        has_int8 = self.engine in ("openvino", "auto") and self.precision in ("int8", "auto")
        if self.precision == "int8" and not has_int8:
            raise ValueError(f"precision: int8 needs engine: openvino; with {self.engine} use float32")
        if self.precision == "int8" and self.calibration is None:
            raise ValueError("calibration: missing; name a folder of pictures like those to be classified, for int8")
        if self.calibration is not None and not has_int8:
            raise ValueError("calibration: needs engine: openvino and precision: int8, or auto; remove the key")
        return self

    @model_validator(mode="after")
    def _agreement_is_for_auto(self) -> Self:
        if not self.is_auto and self.agreement_pictures is not None:
            raise ValueError("agreement_pictures: needs engine: auto or precision: auto; remove the key")
        if not self.is_auto and self.precision != "int8" and self.min_agreement != USUAL_AGREEMENT:
            raise ValueError("min_agreement: needs engine: auto, precision: auto or precision: int8; remove the key")
        return self

    @model_validator(mode="after")
    def _model_is_a_known_name_or_a_file(self) -> Self:
        if self.model in FAMILIES or self.is_model_file:
            return self
        near = nearest(self.model, FAMILIES)
        raise ValueError(
            f"model: {self.model!r} is neither a file ({', '.join(MODEL_SUFFIXES)}) nor a known network"
            + (f"; did you mean {near}?" if near else f": {', '.join(FAMILIES)}")
        )

    @model_validator(mode="after")
    def _a_model_file_says_what_it_needs(self) -> Self:
        if not self.is_model_file:
            return self
        if self.weights != "auto":
            raise ValueError(f"weights: {shown(self.model)} has weights of its own; remove the key")
        if self.preprocessing == "auto":
            raise ValueError(
                f"preprocessing: missing; write what {shown(self.model)} expects: resnet50, torchvision, scale_0_1, "
                "scale_minus1_1, or none if its own layers scale the pixels"
            )
        return self

    @model_validator(mode="after")
    def _the_engine_can_compute_the_model(self) -> Self:
        if self.is_onnx and self.engine in ("tensorflow", "jax"):
            raise ValueError(
                f"engine: {self.engine} computes no .onnx file; use engine: openvino or engine: onnxruntime"
            )
        if self.engine == "onnxruntime" and not self.is_onnx:
            raise ValueError(
                "engine: onnxruntime computes .onnx files only; use engine: tensorflow or engine: openvino"
            )
        return self

    @model_validator(mode="after")
    def _the_crop_is_inside_the_picture(self) -> Self:
        if self.resize is not None and self.crop is not None and self.resize < self.crop:
            raise ValueError(f"resize: {self.resize} is smaller than crop: {self.crop}; make it at least as large")
        return self

    @property
    def is_auto(self) -> bool:
        """Tell whether engine or precision are chosen when the model is prepared."""
        return "auto" in (self.engine, self.precision)

    @property
    def thread_count(self) -> int:
        """Return `threads`; 1 for `auto` where no deployment has decided what that is."""
        return 1 if self.threads == "auto" else self.threads

    @property
    def is_model_file(self) -> bool:
        """Tell whether `model` is a file or its URL, not a network's name."""
        return _suffix(self.model) in MODEL_SUFFIXES

    @property
    def is_onnx(self) -> bool:
        """Tell whether `model` is an ONNX file."""
        return _suffix(self.model) == ONNX_SUFFIX


def is_url(source: str) -> bool:
    """Tell whether `source` is fetched rather than opened."""
    return "://" in source


def file_name(source: str) -> str:
    """Return the last part of a source's path: what weights and labels are called in answers."""
    return PurePosixPath(read_address(source).path if is_url(source) else source).name


def shown(source: str) -> str:
    """Return a source as logs and errors may show it: a URL without its user, password and query."""
    if not is_url(source):
        return source
    address = read_address(source)
    path = "/…" if "@" in address.path else address.path  # what stands before an @ may be a user who was not escaped
    return f"{address.scheme}://{address.place}{path}"


def _suffix(source: str) -> str:
    return PurePosixPath(source.partition("?")[0] if is_url(source) else source).suffix
