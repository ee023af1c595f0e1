"""What a message of gRPC will take in memory, from its bytes, before it is parsed (Protocol Buffers, Encoding).

Two bytes can be a message within a message, which takes hundreds once parsed.
"""

from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from serve_app.errors import MalformedInference, UploadTooLarge
from serve_app.open_inference.grpc_messages import message_class
from serve_app.open_inference.request import MAX_JSON_VALUES

MAX_FIELDS = 10_000
"""Each becomes an object; values that are packed into one field count as one."""
FIELD_BYTES = 256
"""What such an object takes in memory."""
_VALUE_BYTES = 8
_LONGEST_VARINT = 10
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}
_TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


def parse_message(name: str, raw: bytes) -> Any:
    """Return the message of the class `name`. Raises MalformedInference."""
    try:
        return message_class(name).FromString(raw)
    except DecodeError as exc:
        raise _malformed(name) from exc


def parsed_bytes(name: str, raw: bytes) -> int:
    """Return how many bytes of memory the message of the class `name` takes at most, once it is parsed.

    Raises MalformedInference, and UploadTooLarge beyond MAX_FIELDS fields or MAX_JSON_VALUES packed values.
    """
    found = _Found(name, raw)
    found.walk(message_class(name).DESCRIPTOR, 0, len(raw))
    return len(raw) + FIELD_BYTES * found.fields + _VALUE_BYTES * found.packed_bytes


@dataclass
class _Found:
    """What has been found in a message so far."""

    name: str
    raw: bytes
    fields: int = 0
    packed_bytes: int = 0
    """A value takes one of them at least."""

    def walk(self, message: Descriptor, at: int, end: int) -> None:
        """Count the fields from `at` to `end`; no message of the protocol contains itself."""
        while at < end:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise UploadTooLarge(f"the message has more than {MAX_FIELDS:,} fields; use raw_input_contents")
            tag, at = self._varint(at, end)
            wire = tag & 7
            if wire == _VARINT:
                _, at = self._varint(at, end)
            elif wire == _LENGTH:
                size, at = self._varint(at, end)
                if size > end - at:
                    raise _malformed(self.name)
                self._count(message.fields_by_number.get(tag >> 3), at, size)
                at += size
            elif wire in _WIDTHS:
                at += _WIDTHS[wire]
            else:
                raise _malformed(self.name)

    def _count(self, field: FieldDescriptor | None, at: int, size: int) -> None:
        if field is None or field.type in _TEXTS:
            return
        if field.message_type is not None:
            self.walk(field.message_type, at, at + size)
            return
        self.packed_bytes += size
        if self.packed_bytes > _LONGEST_VARINT * MAX_JSON_VALUES:
            raise UploadTooLarge(
                f"the message has more than {MAX_JSON_VALUES:,} values in its contents; use raw_input_contents"
            )

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the number at `at`, and where it ends."""
        value = 0
        for index in range(min(_LONGEST_VARINT, end - at)):
            byte = self.raw[at + index]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:  # noqa: PLR2004 the last
                return value, at + index + 1
        raise _malformed(self.name)


def _malformed(name: str) -> MalformedInference:
    return MalformedInference(f"the message is no {name} of the protocol; generate the client from its .proto file")
