"""The classifier's settings, as written under `args:` of the `model` application in configs/*.yaml."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from serve_app.address import AddressFault, read_address
from serve_app.cache.settings import CacheSettings
from serve_app.classifier.job_settings import JobSettings
from serve_app.entrance.keys import Auth

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", to_lower=True)]
# Pillow refuses pictures beyond twice its own limit, whatever we allow.
MAX_PIXELS = 178_956_970
# Part headers, boundaries and a few stray text fields around the picture.
MULTIPART_OVERHEAD_BYTES = 16_384
# Sources that are neither a file nor a URL.
SOURCE_WORDS = ("auto", "imagenet", "random")
WEIGHTS_SUFFIXES = (".h5", ".keras")
Source = Annotated[str, StringConstraints(min_length=1)]

_URL_SCHEMES = ("http", "https")
_LOGIN_WITHOUT_SCHEME = re.compile(r":[^@]*@")
"""Of a URL whose `://` is mistyped; taken for a path it would be shown."""


class ClassifierSettings(BaseModel):
    """What to serve and within which bounds. A misspelled key is an error, not a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    auth: Auth = Field(None, description="API keys ({keys_env: NAME} or {keys_file: PATH}) | none | not given.")
    engine: Literal["tensorflow", "openvino"] = Field("tensorflow", description="What computes the network.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Arithmetic of the engine; bfloat16 only with engine: openvino."
    )
    threads: int = Field(1, ge=1, le=256, description="Engine threads of one replica.")
    weights: Source = Field("auto", description="auto | imagenet | random | a file's path | a URL.")
    weights_sha256: Sha256 | None = Field(None, description="Checksum of the weights; a must with a URL.")
    labels: Source = Field("auto", description="auto | imagenet | a file's path | a URL.")
    labels_sha256: Sha256 | None = Field(None, description="Checksum of the labels; a must with a URL.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of random weights.")
    max_batch: int = Field(8, ge=1, le=128, description="Most pictures in one run of the engine.")
    max_queue: int = Field(512, ge=1, description="Most pictures in decoding, waiting or in the engine; beyond: 503.")
    max_wait_s: float = Field(
        6.0,
        gt=0,
        le=600,
        description="Longest work before a new picture's; beyond: 503. Half of it in lasting overload.",
    )
    deadline_s: float = Field(10.0, gt=0, le=600, description="Longest time from upload to answer; beyond: 504.")
    decode_threads: int = Field(2, ge=1, le=64, description="Threads that decode pictures.")
    max_upload_bytes: int = Field(10_000_000, ge=1, description="Largest picture file; beyond: 413.")
    upload_timeout_s: float = Field(30.0, gt=0, le=600, description="Longest time for an upload; beyond: 408.")
    max_held_bytes: int = Field(268_435_456, ge=1, description="Most bytes of uploads in memory; beyond: 503.")
    max_pixels: int = Field(50_000_000, ge=1, le=MAX_PIXELS, description="Most pixels of a picture; beyond: 413.")
    cache: CacheSettings = Field(CacheSettings(), description="Where predictions are kept.")
    niceness: int = Field(10, ge=0, le=19, description="CPU priority of decoding and engine; 19 is lowest.")

    jobs: JobSettings = Field(default_factory=JobSettings, description="Bounds of the durable jobs (with REDIS_URL).")

    @model_validator(mode="after")
    def _one_upload_fits_into_memory(self) -> Self:
        least = self.max_upload_bytes + MULTIPART_OVERHEAD_BYTES
        if self.max_held_bytes < least:
            raise ValueError(
                f"max_held_bytes must be at least {least}: max_upload_bytes and {MULTIPART_OVERHEAD_BYTES}"
            )
        return self

    @field_validator("weights", "labels")
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
        for field in ("weights", "labels"):
            if is_url(getattr(self, field)) and getattr(self, f"{field}_sha256") is None:
                raise ValueError(f"{field} is a URL: give {field}_sha256 too (sha256sum of the file)")
        return self

    @model_validator(mode="after")
    def _keras_judges_weights_by_their_suffix(self) -> Self:
        if self.weights not in SOURCE_WORDS and not self.weights.partition("?")[0].endswith(WEIGHTS_SUFFIXES):
            raise ValueError(
                f"weights must be one of {', '.join(SOURCE_WORDS)} or end in {' or '.join(WEIGHTS_SUFFIXES)}"
            )
        return self

    @model_validator(mode="after")
    def _checksums_need_a_file(self) -> Self:
        for field, words in (("weights", SOURCE_WORDS), ("labels", ("auto", "imagenet"))):
            if getattr(self, f"{field}_sha256") and getattr(self, field) in words:
                raise ValueError(f"{field}_sha256 belongs to a file or URL; remove it with {field}: {words[0]}")
        return self

    @model_validator(mode="after")
    def _bfloat16_is_openvino_only(self) -> Self:
        if self.precision == "bfloat16" and self.engine != "openvino":
            raise ValueError("precision: bfloat16 needs engine: openvino; with tensorflow use float32")
        return self


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
