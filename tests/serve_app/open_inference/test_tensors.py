"""From tensors to the files of pictures: what fits becomes a picture, and everything else is named before it costs."""

import base64
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serve_app.classifier.families import Geometry
from serve_app.classifier.images import decode_image
from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import ServiceError
from serve_app.open_inference.tensors import Output, Tensor, pictures_in
from tests.serve_app.classifier.test_images import encode, smooth

SETTINGS = ClassifierSettings(max_upload_bytes=300_000, max_pixels=90_000, max_request_pictures=4)
PICTURE = encode(smooth(40, 30), "PNG")


def raw(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def files(shape: tuple[int, ...], data: Any, **parameters: Any) -> list[bytes]:
    return pictures_in(Tensor("pictures", "BYTES", shape, data, parameters), SETTINGS)


def drawn(shape: tuple[int, ...], data: Any, datatype: str = "UINT8") -> list[bytes]:
    return pictures_in(Tensor("pixels", datatype, shape, data), SETTINGS)


def refusal(tensor: Tensor) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        pictures_in(tensor, SETTINGS)
    assert 400 <= caught.value.status < 500
    assert tensor.name in caught.value.detail
    return caught.value


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_raw_elements_are_files_whatever_is_in_them(shape: tuple[int, ...]) -> None:
    assert files(shape, memoryview(raw(PICTURE, b"\0"))) == [PICTURE, b"\0"]


def test_strings_of_json_are_base64() -> None:
    text = base64.b64encode(PICTURE).decode()
    assert files((2,), [text, text]) == [PICTURE, PICTURE]
    assert files((2, 1), [[text], [text]], content_type="base64") == [PICTURE, PICTURE]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 3), (5, 7), (70, 69)])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_pixels_are_the_picture_that_a_file_of_them_is(width: int, height: int, datatype: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    of_datatype = pixels.astype("u1" if datatype == "UINT8" else "<f4")
    for data in (of_datatype.tobytes(), of_datatype.tolist(), of_datatype.flatten().tolist()):
        for file, shown in zip(drawn(pixels.shape, data, datatype), pixels, strict=True):
            assert (decoded(file) == decoded(encode(Image.fromarray(shown), "PNG"))).all()


def decoded(file: bytes) -> np.ndarray:
    return decode_image(file, SETTINGS.max_pixels, Geometry(16, 16))


def test_floats_are_rounded() -> None:
    dark, bright = (drawn((1, 1, 1, 3), [value] * 3, "FP32") for value in (99.4, 99.6))
    assert dark == drawn((1, 1, 1, 3), [99] * 3)
    assert bright == drawn((1, 1, 1, 3), [100] * 3)


NAN, INFINITE = float("nan"), float("inf")
LONG = struct.pack("<I", 2**32 - 1)
HOSTILE = {
    "no dimension": ("BYTES", (), raw(PICTURE), "shape"),
    "no picture": ("BYTES", (0,), b"", "at least 1"),
    "two columns": ("BYTES", (1, 2), raw(PICTURE, PICTURE), "[n]"),
    "fewer elements than the shape": ("BYTES", (2,), raw(PICTURE), "1 elements"),
    "more elements than the shape": ("BYTES", (1,), raw(PICTURE, PICTURE), "more elements"),
    "a length beyond the end": ("BYTES", (1,), LONG + PICTURE, "leads beyond"),
    "half a length": ("BYTES", (1,), b"\x01\x00", "leads beyond"),
    "a million lengths of 0": ("BYTES", (2,), bytes(4_000_000), "more elements"),
    "no Base64": ("BYTES", (1,), ["%%%"], "Base64"),
    "letters behind Base64": ("BYTES", (1,), ["AAAA=AAA"], "Base64"),
    "text that is not ASCII": ("BYTES", (1,), ["ä" * 8], "Base64"),
    "a number for a string": ("BYTES", (1,), [7], "strings"),
    "nested too deep": ("BYTES", (1,), [[["AAAA"]]], "strings"),
    "too many pictures": ("BYTES", (10**9,), raw(PICTURE), "one request may have 4"),
    "a file too large": ("BYTES", (1,), raw(bytes(300_001)), "300,000 bytes"),
    "too many pixels at once": ("UINT8", (10**9, 1, 1, 3), b"", "one request may have 4"),
    "10⁹ pixels": ("UINT8", (1, 10**9, 1, 3), b"", "90,000"),
    "10¹⁸ pixels": ("FP32", (1, 10**9, 10**9, 3), b"", "90,000"),
    "too many bytes": ("UINT8", (1, 100_001, 0, 3), b"", "at least 1"),
    "no colours": ("UINT8", (1, 4, 4), bytes(16), "[n, height, width, 3]"),
    "four channels": ("UINT8", (1, 4, 4, 4), bytes(64), "[n, height, width, 3]"),
    "channels first": ("UINT8", (1, 3, 4, 4), bytes(48), "[n, height, width, 3]"),
    "a byte too few": ("UINT8", (1, 4, 4, 3), bytes(47), "47 bytes"),
    "floats where bytes should be": ("UINT8", (1, 1, 1, 3), [0.5, 1.0, 2.0], "UINT8"),
    "a value too large": ("UINT8", (1, 1, 1, 3), [0, 1, 256], "0 to 255"),
    "a negative value": ("UINT8", (1, 1, 1, 3), [0, 1, -1], "0 to 255"),
    "integers of any size": ("UINT8", (1, 1, 1, 3), [0, 1, 10**40], "UINT8"),
    "truth values": ("UINT8", (1, 1, 1, 3), [True, False, True], "UINT8"),
    "strings": ("UINT8", (1, 1, 1, 3), ["1", "2", "3"], "UINT8"),
    "null": ("FP32", (1, 1, 1, 3), [None, 1, 2], "FP32"),
    "objects": ("FP32", (1, 1, 1, 3), [{}, 1, 2], "FP32"),
    "integers beyond any float": ("FP32", (1, 1, 1, 3), [0, 1, 10**400], "FP32"),
    "no values": ("UINT8", (1, 1, 1, 3), [], "[0]"),
    "not a rectangle": ("FP32", (1, 1, 1, 3), [[1, 2], [3]], "rectangle"),
    "another nesting": ("FP32", (1, 2, 1, 3), [[1, 2], [3, 4], [5, 6]], "[3, 2]"),
    "NaN": ("FP32", (1, 1, 1, 3), struct.pack("<3f", 1, NAN, 2), "NaN"),
    "infinite": ("FP32", (1, 1, 1, 3), struct.pack("<3f", 1, INFINITE, 2), "0 to 255"),
    "minus infinite": ("FP32", (1, 1, 1, 3), struct.pack("<3f", 1, -INFINITE, 2), "0 to 255"),
    "doubles": ("FP32", (1, 1, 1, 3), struct.pack("<3d", 1, 2, 3), "24 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_does_not_fit_is_refused_by_name(name: str) -> None:
    datatype, shape, data, words = HOSTILE[name]
    assert words in refusal(Tensor("the_input", datatype, shape, data)).detail


def test_a_long_string_among_many_short_ones_costs_no_more_than_itself() -> None:
    data = ["x" * 20_000, *["x"] * (3 * 100 * 100 - 1)]  # as an array of NumPy: 2.4 GB
    tracemalloc.start()
    try:
        assert "UINT8" in refusal(Tensor("the_input", "UINT8", (1, 100, 100, 3), data)).detail
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


SHAPES = st.lists(st.one_of(st.integers(0, 5), st.just(3), st.sampled_from((2**31, 2**63, 10**30))), max_size=5)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=20,
)


@settings(max_examples=100)
@given(
    st.sampled_from(("BYTES", "UINT8", "FP32")),
    SHAPES,
    st.one_of(st.binary(max_size=300), st.lists(VALUES, max_size=8)),
)
def test_no_tensor_at_all_is_our_fault(datatype: str, shape: list[int], data: Any) -> None:
    try:
        found = pictures_in(Tensor("t", datatype, tuple(shape), data), SETTINGS)
    except ServiceError as refused:
        assert 400 <= refused.status < 500  # noqa: PT017 either is right
    else:
        assert len(found) == shape[0]


def test_strings_go_out_behind_their_lengths_and_numbers_little_endian() -> None:
    labels = Output("labels", "BYTES", np.array([["ä", ""]], dtype=object))
    assert labels.raw() == b"\x02\0\0\0\xc3\xa4\0\0\0\0"
    assert Output("class_ids", "INT32", np.array([[1, 258]])).raw() == b"\x01\0\0\0\x02\x01\0\0"
    assert Output("probabilities", "FP32", np.array([[0.5]])).raw() == struct.pack("<f", 0.5)
