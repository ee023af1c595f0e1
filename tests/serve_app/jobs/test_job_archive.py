"""ZIPs of pictures: what comes out, and that none costs more than its bounds, however it was made."""

import struct
import tracemalloc
import zipfile

import pytest

from serve_app.errors import MalformedUpload, UploadTooLarge
from serve_app.jobs.archive import MAX_ENTRIES, is_archive, unpack_archive
from tests.jobs import zipped

MIB = 2**20


def unpacked(
    data: bytes, max_files: int = 10, max_bytes: int = MIB, max_file_bytes: int = MIB // 2
) -> dict[str, bytes]:
    return dict(unpack_archive(data, max_files=max_files, max_bytes=max_bytes, max_file_bytes=max_file_bytes))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_files_come_out_in_order_with_their_names(method: int) -> None:
    members = [("b.jpg", b"1"), ("a/é.png", b"2" * 1000), ("a/empty", b"")]
    data = zipped(members, method)
    assert is_archive(data)
    assert list(unpacked(data).items()) == members


def test_what_begins_otherwise_is_no_archive() -> None:
    assert not is_archive(b"\xff\xd8\xff" + zipped([("a", b"b")]))


def test_folders_and_desktop_litter_are_left_out() -> None:
    members = [("a/", b""), ("__MACOSX/a/._1.jpg", b"x"), ("a/.DS_Store", b"x"), ("Thumbs.db", b"x"), ("a/1.jpg", b"1")]
    assert unpacked(zipped(members)) == {"a/1.jpg": b"1"}


def test_a_colon_is_a_letter_and_the_backslash_of_windows_a_slash() -> None:
    members = [("2026-11-28T09:10:00.jpg", b"1"), ("summer\\1.jpg", b"2"), ("a..b\\..c", b"3")]
    litter = [("summer\\", b""), ("__MACOSX\\summer\\._1.jpg", b"x"), ("summer\\Thumbs.db", b"x")]
    assert unpacked(zipped([*litter, *members])) == dict(members)


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg", "a/../../b.jpg", "/etc/passwd", "C:/a.jpg", "c:a.jpg", "C:\\a.jpg", "..\\a.jpg", "a\\..\\..\\b.jpg",
        "\\\\server\\a.jpg",
    ],
)  # fmt: skip
def test_a_name_that_points_out_of_the_archive_is_refused(name: str) -> None:
    with pytest.raises(MalformedUpload, match="points out of the archive"):
        unpacked(zipped([(name, b"x")]))


def test_an_encrypted_member_is_refused_by_name() -> None:
    data = bytearray(zipped([("secret.jpg", b"x")]))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(MalformedUpload, match=r"'secret.jpg' is encrypted"):
        unpacked(bytes(data))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_may_ask_for_any_memory_are_refused(method: int) -> None:
    with pytest.raises(MalformedUpload, match="use deflate or none"):
        unpacked(zipped([("a.jpg", b"x" * 1000)], method))


def test_a_bomb_is_stopped_while_it_unpacks() -> None:
    bomb = zipped([("small.jpg", b"x"), ("bomb.jpg", b"\0" * 100 * MIB)])
    tracemalloc.start()
    with pytest.raises(UploadTooLarge, match=r"'bomb.jpg' is larger than 524,288 bytes"):
        unpacked(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MIB
    many = zipped((f"{index}.jpg", b"\0" * (MIB // 3)) for index in range(9))
    with pytest.raises(UploadTooLarge, match="1,048,576 bytes together"):
        unpacked(many)


def test_a_directory_that_lies_about_sizes_gains_nothing() -> None:
    data = bytearray(zipped([("a.jpg", b"\0" * MIB)]))
    struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, 10)
    with pytest.raises((MalformedUpload, UploadTooLarge)):
        unpacked(bytes(data))


def test_members_are_bounded() -> None:
    with pytest.raises(UploadTooLarge, match="11 files; a job takes up to 10"):
        unpacked(zipped((f"{index}.jpg", b"") for index in range(11)))


def test_a_directory_of_a_million_entries_costs_nothing() -> None:
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * (50 * MIB // len(entry))
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65_535, 65_535, len(directory), 4, 0)
    data = b"PK\x03\x04" + directory + end
    tracemalloc.start()
    with pytest.raises(UploadTooLarge, match=f"more than {MAX_ENTRIES:,} entries"):
        unpacked(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MIB  # no object was made for any of them


def test_overlapping_members_are_bounded_by_what_comes_out() -> None:
    """As the zip bombs without nesting are made: every entry of the directory names the same bytes."""
    one = zipped([("0.jpg", b"\0" * (MIB // 3))])
    start = one.rindex(b"PK\x01\x02")
    entry, end = one[start : one.rindex(b"PK\x05\x06")], bytearray(one[one.rindex(b"PK\x05\x06") :])
    struct.pack_into("<HHI", end, 8, 9, 9, 9 * len(entry))
    with pytest.raises((MalformedUpload, UploadTooLarge)):
        unpacked(one[:start] + entry * 9 + bytes(end))


@pytest.mark.parametrize("spoil", ["cut", "crc", "offset", "noise"])
def test_a_damaged_zip_is_a_clear_refusal(spoil: str) -> None:
    data = bytearray(zipped([("a.jpg", bytes(range(256)) * 40)]))
    if spoil == "cut":
        del data[200:]
    elif spoil == "crc":
        data[data.rindex(b"PK\x01\x02") + 16] ^= 255
    elif spoil == "offset":
        struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 42, 2**31)
    else:
        data[60:120] = bytes(60)
    with pytest.raises(MalformedUpload, match="ZIP"):
        unpacked(bytes(data))
