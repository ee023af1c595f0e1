"""The accuracy of the models that a target serves: of evaluations that the plan names. Called by `summary`.

An evaluation belongs to a target that tells the fingerprint of its model under a key `fingerprint` in its JSON answers.
"""

from collections.abc import Iterator, Sequence

from loadtest.figures.figures import EvaluationFigures
from loadtest.rows.evaluation import Evaluation, Share


def compute_evaluations(evaluations: Sequence[Evaluation], abouts: Sequence[object]) -> list[EvaluationFigures]:
    """Return the figures of `evaluations`; `abouts` are what a target said of itself before each of its cells."""
    told = [set(find_fingerprints(about)) for about in abouts if about]
    return [_figures(evaluation, told) for evaluation in evaluations]


def find_fingerprints(about: object) -> Iterator[str]:
    """Yield each fingerprint in what a target says of itself."""
    if isinstance(about, dict):
        if isinstance(found := about.get("fingerprint"), str):
            yield found
        parts = list(about.values())
    else:
        parts = about if isinstance(about, list) else []
    for part in parts:
        yield from find_fingerprints(part)


def _figures(evaluation: Evaluation, told: Sequence[set[str]]) -> EvaluationFigures:
    model, top5 = evaluation.model, evaluation.top5
    is_known = model.fingerprint is not None and any(told)
    return EvaluationFigures(
        file=evaluation.file,
        date=evaluation.date,
        model=f"{model.name} ({model.engine}, {model.precision}, weights {model.weights})",
        pictures=evaluation.pictures,
        top1_percent=100 * evaluation.top1.share,
        top1_interval_percent=_interval(evaluation.top1),
        top5_percent=100 * top5.share if top5 else None,
        top5_interval_percent=_interval(top5) if top5 else None,
        is_of_target=all(model.fingerprint in fingerprints for fingerprints in told) if is_known else None,
    )


def _interval(share: Share) -> tuple[float, float]:
    return 100 * share.low, 100 * share.high
