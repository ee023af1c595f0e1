"""What the network finds in a picture: made by the classifier, kept here, described by `classifier.answer`."""

from dataclasses import dataclass

BestClasses = list[tuple[int, float]]
"""Class index and score, best first."""

KEPT_CLASSES = 10
"""How many of them are kept: the most that a client may ask for."""


@dataclass(frozen=True)
class Classification:
    """The KEPT_CLASSES best classes of one picture, and how they were found."""

    best: BestClasses
    image_sha256: str
    marks: tuple[tuple[str, float], ...] = ()
    """Stages in their order, each with its end (a time.perf_counter() value)."""
    cached: bool = False
    """Whether it was computed for another request, before or at the same time."""
