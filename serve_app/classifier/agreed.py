"""How far an engine agrees with another one about some pictures, and whether that is enough to serve."""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from serve_app.agreement import Pair, measure_agreement
from serve_app.classifier.scores import best_classes

Scores = NDArray[np.float32]


class Agreed(BaseModel):
    """How far an engine agrees with the reference about some pictures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: str
    same_class: int
    of: int
    largest_difference: float = Field(description="Of the probability of any class, 0 to 1.")


def compare_scores(pictures: str, wanted: Scores, found: Scores) -> Agreed:
    """Return the agreement of two engines' scores, shape (n, classes), of pictures that are called `pictures`."""
    agreement = measure_agreement(
        [
            Pair(str(number), tuple(best_classes(first)), tuple(best_classes(second)))
            for number, (first, second) in enumerate(zip(wanted, found, strict=True))
        ]
    )
    top1 = agreement.top1
    return Agreed(
        pictures=pictures,
        same_class=top1.count,
        of=top1.of,
        largest_difference=agreement.percentiles["largest"],
    )


def why_refused(measured: list[Agreed], min_agreement: float) -> str | None:
    """Return why an engine that agrees so far may not serve, or None if it may."""
    least = min(measured, key=lambda each: each.same_class / each.of, default=None)
    if least is None or not is_beyond(least.of - least.same_class, least.of, min_agreement):
        return None
    return f"another best class in {least.of - least.same_class} of {least.of} {least.pictures}"


def is_beyond(count: int, of: int, min_agreement: float) -> bool:
    """Tell whether `count` of `of` pictures are a larger share than the 1 - `min_agreement` that may differ.

    As decimals: 57 of 300 are 0.19, which in binary fractions is more than 1 - 0.81.
    """
    return count > round((1 - min_agreement) * of, 9)
