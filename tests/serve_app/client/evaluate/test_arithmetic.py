"""Intervals, accuracy and agreement, against figures that are known."""

import pytest

from serve_app.agreement import Pair, Share, measure_agreement
from serve_app.classifier.families import FAMILIES
from serve_app.client.errors import RunStopped, UsageError
from serve_app.client.evaluate.accuracy import Verdict, measure_accuracy, read_best
from serve_app.client.evaluate.classes import match_classes
from serve_app.client.evaluate.published import BY_NAME, find_published


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_intervals_are_those_that_newcombe_computed(count: int, of: int, low: float, high: float) -> None:
    assert Share(count, of).interval == pytest.approx((low, high), abs=5e-5)


def verdict(file: str, truth: int, *best: int, score: float = 0.5) -> Verdict:
    return Verdict(file, truth, tuple((index, score / 2**place) for place, index in enumerate(best)))


def test_top_1_and_top_5_count_what_they_say() -> None:
    verdicts = [
        verdict("right", 1, 1, 2, 3, 4, 5),
        verdict("second", 1, 2, 1, 3, 4, 5),
        verdict("fifth", 1, 5, 4, 3, 2, 1),
        verdict("sixth", 1, 6, 5, 4, 3, 2, 1),
    ]
    accuracy = measure_accuracy(verdicts, classes=10)
    assert (accuracy.top1, accuracy.top5) == (Share(1, 4), Share(3, 4))
    assert measure_accuracy(verdicts, classes=5).top5 is None  # the true class is always among five


def test_the_worst_class_is_the_one_that_is_surely_bad_and_not_the_one_with_one_picture() -> None:
    many = [verdict(f"many {number}", 0, 1 if number < 15 else 0) for number in range(20)]
    accuracy = measure_accuracy([*many, verdict("one", 1, 0), verdict("good", 2, 2)], classes=10)
    assert [each.index for each in accuracy.by_class] == [0, 1, 2]
    assert accuracy.by_class[0].right == Share(5, 20)
    assert [each.taken_for for each in accuracy.by_class] == [(1, 15), (0, 1), None]


def test_wrong_pictures_come_with_the_most_certain_first() -> None:
    verdicts = [verdict("unsure", 0, 1, score=0.3), verdict("sure", 0, 1, score=0.9), verdict("right", 1, 1)]
    assert [wrong.file for wrong in measure_accuracy(verdicts, classes=10).wrong] == ["sure", "unsure"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "has no class_id and score"),
        (7, "has no class_id and score"),
        ([{"label": "a"}], "has no class_id and score"),
        ([], "names no class"),
        ([{"class_id": 3, "score": 0.5}], "beyond the 3 labels of the service"),
    ],
)
def test_an_answer_without_a_class_of_the_service_stops_the_run(found: object, words: str) -> None:
    with pytest.raises(RunStopped, match=words):
        read_best({"predictions": found}, 3)


def test_the_difference_of_a_pair_is_the_largest_of_any_class() -> None:
    pair = Pair("a", ((0, 0.7), (1, 0.2), (2, 0.1)), ((1, 0.5), (0, 0.4), (2, 0.1)))
    assert not pair.agrees
    assert pair.difference == pytest.approx(0.3)
    assert Pair("a", pair.first, pair.first).difference == 0


def test_a_class_that_is_not_listed_has_at_most_the_lowest_probability_of_the_list() -> None:
    pair = Pair("a", ((0, 0.6), (1, 0.1)), ((0, 0.6), (2, 0.3)))
    assert pair.difference == pytest.approx(0.2)  # class 2: 0.3, and at most 0.1 in the first


def test_agreement_groups_the_differences_and_puts_the_worst_pairs_first() -> None:
    same = [Pair(f"same {number}", ((0, 0.9),), ((0, 0.9),)) for number in range(97)]
    near = Pair("near", ((0, 0.90),), ((0, 0.86),))
    far = Pair("far", ((0, 0.9),), ((0, 0.3),))
    other = Pair("other", ((0, 0.51), (1, 0.49)), ((1, 0.51), (0, 0.49)))
    agreement = measure_agreement([*same, near, far, other])
    assert agreement.top1 == Share(99, 100)
    assert dict(agreement.groups) == {0.001: 97, 0.01: 0, 0.05: 2, 0.1: 0, 0.5: 0, 1.0: 1}
    assert [pair.file for pair in agreement.worst[:3]] == ["other", "far", "near"]
    assert agreement.percentiles == pytest.approx({"median": 0, "p90": 0, "p99": 0.04, "largest": 0.6})


def test_classes_of_two_services_are_the_same_by_label_unless_one_has_placeholders() -> None:
    assert list(match_classes(["a", "b"], ["a", "b"], by_index=False)) == [0, 1]
    assert list(match_classes(["a", "b"], ["b", "c", "a"], by_index=False)) == [1, 3, 0]
    # The first crane is the first crane, the second the second, and a third one has no counterpart.
    cranes = ["crane", "cat", "crane"]
    assert list(match_classes(cranes, ["none", *cranes], by_index=False)) == [3, 0, 1, 2]
    assert list(match_classes(cranes, ["crane", "crane", "crane", "cat"], by_index=False)) == [0, 2, 5, 1]
    assert list(match_classes(["a", "b"], ["class_0000", "class_0001"], by_index=True)) == [0, 1]
    for labels, by_index in ((["x", "y"], False), (["class_0000"], True)):
        with pytest.raises(UsageError, match=r"--against: its .* cannot be compared"):
            match_classes(["a", "b"], labels, by_index=by_index)


def test_every_named_network_has_its_published_figure_with_imagenet_weights() -> None:
    assert set(BY_NAME) == set(FAMILIES)
    for name, family in FAMILIES.items():
        assert BY_NAME[name].preprocessing == family.preprocessing
        assert family.crop in (None, BY_NAME[name].side)
    found = find_published({"name": "resnet50", "weights": "imagenet"})
    assert found is not None
    assert (found.top1, found.top5) == (74.9, 92.1)
    for weights in ("random", "fitted.weights.h5"):
        assert find_published({"name": "resnet50", "weights": weights}) is None


def test_a_published_figure_says_what_it_was_measured_with() -> None:
    assert BY_NAME["efficientnet_b4"].describe() == (
        "82.9 % top-1, 96.4 % top-5 for ImageNet's 50,000 validation pictures, input 380×380, preprocessing none "
        "(https://keras.io/api/applications/)"
    )
    assert BY_NAME["convnext_tiny"].describe().startswith("81.3 % top-1 for ImageNet's")
