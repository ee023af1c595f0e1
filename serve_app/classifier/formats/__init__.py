"""What the bytes of a picture's file say beside its pixels, where Pillow does not tell it or tells another thing.

Called by `images`, and by `upload` for the signatures; knows nothing of Pillow and decodes no pixel.
"""

from serve_app.errors import UnreadableImage

# Parsers walk through segments, chunks and blocks in Python, two to four reads for each. Honest pictures of 10 MB need
# up to 10,000 (PNG whose data is in chunks of 4 kB).
MAX_PIECES = 100_000

SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP"}


def begins_as(data: bytes) -> str | None:
    """Return the format that the first bytes of `data` name, or None."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for signature, name in SIGNATURES.items() if data.startswith(signature)), None)


def too_many_pieces(most: int = MAX_PIECES) -> UnreadableImage:
    """Return what to raise beyond so many."""
    return UnreadableImage(f"the picture is in so many pieces that they take {most:,} reads; save it anew")
