"""Corrupts the bytes of valid files, with a random generator that makes the same bytes from the same seed."""

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Mutation = Callable[[random.Random, bytes], bytes]

# Numbers at which lengths, sizes and counts go wrong.
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
_FOREIGN = (
    b"PK\x05\x06" + bytes(18),  # the end of an empty ZIP
    b"%PDF-1.7\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF",
    b"<html><script>alert(1)</script></html>",
    b"#!/bin/sh\nexit 0\n",
    b"MZ\x90\x00",
    b"II*\x00\x08\x00\x00\x00",  # TIFF
)
_HEADER_BYTES = 64
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Spoilt:
    """A file after mutations, and their names."""

    was_done: str
    data: bytes


def spoil(rng: random.Random, files: Sequence[bytes]) -> Spoilt:
    """Return one of `files` after up to three mutations; one in twenty is unchanged."""
    data = rng.choice(files)
    if rng.random() < 0.05:  # noqa: PLR2004 one in twenty
        return Spoilt("as it is", data)
    names = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(sorted(MUTATIONS))
        data = MUTATIONS[name](rng, data)
        names.append(name)
    if data.startswith(_PNG) and rng.random() < 0.5:  # noqa: PLR2004 half: wrong checksums would hide the rest
        data = with_right_checksums(data)
        names.append("right checksums")
    if rng.random() < 0.1:  # noqa: PLR2004 one in ten
        data = _with_foreign(rng, data, files)
        names.append("polyglot")
    return Spoilt(", ".join(names), data)


def with_right_checksums(png: bytes) -> bytes:
    """Return a PNG file whose chunks' checksums fit their contents, as far as there are whole chunks."""
    out, position = bytearray(png[: len(_PNG)]), len(_PNG)
    while position + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, position)
        end = position + 8 + length
        if end + 4 > len(png):
            break
        out += png[position:end] + struct.pack(">I", zlib.crc32(png[position + 4 : end]))
        position = end + 4
    return bytes(out + png[position:])


def _flip_bits(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 16))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    start = _place(rng, data)
    new = rng.randbytes(rng.choice((1, 2, 4, 16, 64)))
    return data[:start] + new + data[start + len(new) :]


def _edge_number(rng: random.Random, data: bytes) -> bytes:
    return _put_number(rng, data, _place(rng, data))


def _edge_number_in_header(rng: random.Random, data: bytes) -> bytes:
    return _put_number(rng, data, rng.randrange(_HEADER_BYTES))


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _remove(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[start:end] * rng.choice((2, 2, 10, 100)) + data[end:]


def _insert(rng: random.Random, data: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + rng.randbytes(rng.choice((1, 4, 64, 1000))) + data[start:]


def _swap(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    middle = _place(rng, data[start:end]) + start
    return data[:start] + data[middle:end] + data[start:middle] + data[end:]


MUTATIONS: dict[str, Mutation] = {
    "bits flipped": _flip_bits,
    "bytes overwritten": _overwrite,
    "number at an edge": _edge_number,
    "number in the header": _edge_number_in_header,
    "cut off": _cut,
    "span removed": _remove,
    "span repeated": _repeat,
    "bytes inserted": _insert,
    "spans swapped": _swap,
}


def _with_foreign(rng: random.Random, data: bytes, files: Sequence[bytes]) -> bytes:
    foreign = rng.choice((*_FOREIGN, rng.choice(files)))
    return rng.choice((foreign + data, data + foreign, data[: _place(rng, data)] + foreign))


def _put_number(rng: random.Random, data: bytes, start: int) -> bytes:
    number = rng.choice(_EDGES)
    width = rng.choice((1, 2, 4))
    big = (number & ((1 << 8 * width) - 1)).to_bytes(width, "big")
    new = big if rng.random() < 0.5 else big[::-1]  # noqa: PLR2004 either byte order
    return data[:start] + new + data[start + width :]


def _place(rng: random.Random, data: bytes) -> int:
    return rng.randrange(len(data) + 1)


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = _place(rng, data)
    return start, min(len(data), start + rng.choice((1, 4, 16, 100, 1000)))
