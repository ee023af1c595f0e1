"""The header of a BMP, in all its sizes: BITMAPCOREHEADER to BITMAPV5HEADER, and those of OS/2 2.x.

Pillow has one exception for kinds that it does not know and for broken files, passes over alpha at 16 bits a pixel, and
takes grey palettes for grey pixels at any depth.
"""

import struct
from dataclasses import dataclass

_FILE_HEADER_BYTES = 14
_CORE_BYTES = 12
_OS2_BYTES = range(16, 65, 4)
_WITH_ALPHA_BYTES = (56, 108, 124)
_MASKED = 3
# BI_RGB to BI_ALPHABITFIELDS, and the three of CMYK.
_COMPRESSIONS = (0, 1, 2, 3, 4, 5, 6, 11, 12, 13)
_DEPTHS = (0, 1, 2, 4, 8, 16, 24, 32, 64)
_PALETTE_DEPTHS = (1, 2, 4, 8)
_MOST_COLOURS = 256


@dataclass(frozen=True)
class BmpHeader:
    """What the header says. `palette` is as the file has it, up to 256 colours of three or four bytes."""

    header_bytes: int
    bits: int
    compression: int
    alpha_mask: int
    palette: bytes

    @property
    def is_core(self) -> bool:
        """Whether it is the oldest header, whose colours have three bytes."""
        return self.header_bytes == _CORE_BYTES


def read_header(data: bytes) -> BmpHeader | None:
    """Return the header of the BMP in `data`, or None where it is cut off or no kind of BMP has such a one."""
    header_bytes = int.from_bytes(data[_FILE_HEADER_BYTES : _FILE_HEADER_BYTES + 4], "little")
    end = _FILE_HEADER_BYTES + header_bytes
    if header_bytes not in (_CORE_BYTES, *_OS2_BYTES, *_WITH_ALPHA_BYTES) or len(data) < end:
        return None
    # The shortest of OS/2 end behind the depth; what they leave out is zero.
    fields = data[_FILE_HEADER_BYTES:end].ljust(max(_WITH_ALPHA_BYTES), b"\0")
    if header_bytes == _CORE_BYTES:
        (bits,) = struct.unpack_from("<H", fields, 10)
        compression = colours = alpha_mask = 0
    else:
        bits, compression = struct.unpack_from("<HI", fields, 14)
        (colours,) = struct.unpack_from("<I", fields, 32)
        (alpha_mask,) = struct.unpack_from("<I", fields, 52)
    if bits not in _DEPTHS or compression not in _COMPRESSIONS:
        return None
    if compression != _MASKED or header_bytes not in _WITH_ALPHA_BYTES:
        alpha_mask = 0
    most = min(colours or 1 << bits, _MOST_COLOURS) if bits in _PALETTE_DEPTHS else 0
    palette = data[end : end + most * (3 if header_bytes == _CORE_BYTES else 4)]
    return BmpHeader(header_bytes, bits, compression, alpha_mask, palette)


def describe_unsupported(data: bytes) -> str | None:
    """Return what kind of BMP this is, to be called for one that the decoder refused by its header; None if broken."""
    header = read_header(data)
    if header is None:
        return None
    masks = " with these colour masks" if header.compression == _MASKED else ""
    return (
        f"a BMP with {header.bits} bits a pixel, compression {header.compression}{masks} "
        f"and a header of {header.header_bytes} bytes"
    )
