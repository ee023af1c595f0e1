"""`engine: auto` and `precision: auto`: what is tried, what is chosen, and that it is found again."""

import hashlib
import os
from itertools import product
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from serve_app.classifier.agreed import Agreed, why_refused
from serve_app.classifier.child import run_child
from serve_app.classifier.choice import (
    GENERATED,
    MOST_OF_A_FOLDER,
    PassingError,
    Trial,
    _Bench,
    _compare,
    _Outcome,
    _PictureSet,
    _try,
    _try_each,
    candidates,
    generate_pictures,
    settled,
)
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.engines.trial import Question
from serve_app.classifier.fingerprint import fingerprint_model
from serve_app.classifier.model_cache import (
    CHOICE,
    _name,
    find_engine_fault,
    find_or_prepare,
    find_prepared,
)
from serve_app.classifier.picture_folder import find_pictures
from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.sources import find_source_faults
from serve_app.errors import SetupError
from tests.conftest import THREADS
from tests.serve_app.classifier.small_networks import pictures, write_onnx


def settings(**args: object) -> ClassifierSettings:
    return ClassifierSettings.model_validate({"engine": "auto", "precision": "auto", "threads": THREADS, **args})


def of_file(model: Path, **args: object) -> ClassifierSettings:
    return settings(model=str(model), preprocessing="scale_0_1", **args)


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (
            {},
            {
                ("tensorflow", "float32"), ("tensorflow", "bfloat16"), ("jax", "float32"), ("jax", "bfloat16"),
                ("openvino", "float32"), ("openvino", "bfloat16"),
            },
        ),
        ({"precision": "float32"}, {("tensorflow", "float32"), ("openvino", "float32"), ("jax", "float32")}),
        ({"engine": "openvino"}, {("openvino", "float32"), ("openvino", "bfloat16")}),
        (
            {"model": "m.onnx", "preprocessing": "none"},
            {("openvino", "float32"), ("openvino", "bfloat16"), ("onnxruntime", "float32")},
        ),
    ],
)  # fmt: skip
def test_what_is_tried_is_what_can_compute_the_model(args: dict[str, object], found: set[tuple[str, str]]) -> None:
    assert {(each.engine, each.precision) for each in candidates(settings(**args))} == found


async def test_the_fastest_engine_that_agrees_serves_and_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ONNX file, for which neither Keras nor TensorFlow is loaded."""
    monkeypatch.setenv("SERVE_APP_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(pictures(5)[0]):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{number}.png")
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    wanted = of_file(write_onnx(tmp_path / "colours.onnx"), agreement_pictures=str(tmp_path / "pictures"))
    assert find_prepared(wanted) is None
    asked: list[Question] = []

    def run(module: str, *, text: str, timeout_s: float) -> object:
        asked.append(Question.model_validate_json(text))
        return run_child(module, text=text, timeout_s=timeout_s)

    monkeypatch.setattr("serve_app.classifier.choice.run_child", run)
    found = find_or_prepare(wanted)
    assert find_prepared(wanted) is not None
    assert len(asked) == len({(each.engine, each.precision) for each in asked}) == 3
    choice = found.choice
    assert choice is not None
    assert choice.reference == "onnxruntime (float32)"
    assert {(each.engine, each.precision) for each in choice.trials} == {
        ("openvino", "float32"), ("openvino", "bfloat16"), ("onnxruntime", "float32"),
    }  # fmt: skip
    eligible = [each.images_per_s for each in choice.trials if each.refused is None]
    assert choice.chosen.refused is None
    assert choice.chosen.images_per_s == max(eligible, key=lambda speed: speed or 0)
    for each in choice.trials:
        assert [(told.of, told.pictures) for told in each.agreement] == [
            (GENERATED, "generated pictures"), (5, f"pictures of {tmp_path / 'pictures'}"),
        ]  # fmt: skip

    [kept] = (tmp_path / "cache" / "models").glob(f"*/{CHOICE}")
    before = kept.stat().st_mtime_ns
    classifier = await Classifier.load(wanted)
    try:
        assert (classifier.model.engine, classifier.model.precision) == (choice.chosen.engine, choice.chosen.precision)
        assert classifier.prepared == found
        assert fingerprint_model(classifier.settings, found) == fingerprint_model(found.settle(wanted), found)
    finally:
        await classifier.close()
    assert kept.stat().st_mtime_ns == before


def test_a_file_is_hashed_once_for_all_engines_that_may_have_computed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVE_APP_CACHE_DIR", str(tmp_path / "cache"))
    wanted, hashed = of_file(write_onnx(tmp_path / "colours.onnx")), []

    def digest(file: BinaryIO, algorithm: str) -> object:
        hashed.append(file.name)
        return hashlib.new(algorithm, file.read())

    monkeypatch.setattr(hashlib, "file_digest", digest)
    assert find_prepared(wanted) is None
    assert hashed == [wanted.model]


def break_package(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, says: str = "") -> None:
    """Have every process that starts from now on fail when it imports a package."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(f"raise SystemExit('{says or f'{name} is broken'}')")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_an_engine_that_breaks_is_refused_until_a_later_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_CACHE_DIR", str(tmp_path / "cache"))
    wanted = of_file(write_onnx(tmp_path / "colours.onnx"), precision="float32")
    break_package("openvino", tmp_path / "first", monkeypatch)
    found = find_or_prepare(wanted)
    assert found.choice is not None
    [chosen, refused] = found.choice.trials
    assert (chosen.engine, chosen.may_pass) == ("onnxruntime", False)
    assert (refused.refused, refused.may_pass) == ("openvino is broken", True)

    break_package("onnxruntime", tmp_path / "second", monkeypatch)  # tells whether anything is tried again
    assert find_or_prepare(wanted, is_start=True) == found
    [kept] = (tmp_path / "cache" / "models").glob(f"*/{CHOICE}")
    os.utime(kept, (0, 0))
    assert find_or_prepare(wanted) == found  # a replica
    with pytest.raises(SetupError, match=r"^engine: onnxruntime computes no picture: onnxruntime is broken; "):
        find_or_prepare(wanted, is_start=True)


@pytest.mark.parametrize(("kind", "may_pass"), [(PassingError, True), (SetupError, False), (RuntimeError, True)])
def test_a_reason_that_may_pass_refuses_an_engine_for_some_time_only(kind: type[Exception], *, may_pass: bool) -> None:
    def prepare(_: ClassifierSettings) -> NoReturn:
        raise kind("engine: too little memory")

    bench = _Bench(settings(), [], gpu_share=1.0)
    trial = _try(settled(settings(), "jax", "float32"), prepare, bench, _Outcome(1.0, []))
    assert (trial.refused, trial.may_pass) == ("engine: too little memory", may_pass)


def test_a_reference_that_breaks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_CACHE_DIR", str(tmp_path / "cache"))
    break_package("onnxruntime", tmp_path / "first", monkeypatch)
    with pytest.raises(SetupError) as caught:
        find_or_prepare(of_file(write_onnx(tmp_path / "colours.onnx"), precision="float32"))
    assert str(caught.value) == (
        "engine: onnxruntime (float32), with which the others are compared, prepares no model: onnxruntime is "
        "broken; name another engine"
    )


def test_what_a_killed_preparation_leaves_is_removed_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVE_APP_CACHE_DIR", str(tmp_path / "cache"))
    break_package("onnxruntime", tmp_path / "first", monkeypatch, says="' + __import__('tempfile').gettempdir() + '")
    model = write_onnx(tmp_path / "colours.onnx")
    with pytest.raises(RuntimeError, match=rf"{tmp_path / 'cache' / 'models'}/\.making-\w+-\w+$"):
        find_or_prepare(of_file(model, engine="onnxruntime", precision="float32"))
    assert not list((tmp_path / "cache" / "models").glob(".making-*"))


def test_a_choice_is_for_the_share_of_a_gpu_that_it_was_timed_with() -> None:
    names = {_name(settings(), share) for share in (0.0, 0.25, 1.0)}
    assert len(names) == 3
    assert _name(settings(engine="jax", precision="float32"), 0.25) == _name(
        settings(engine="jax", precision="float32"), 1.0
    )


@pytest.mark.parametrize(
    ("same", "least", "words"),
    [(128, 0.99, None), (127, 0.99, None), (126, 0.99, "another best class in 2 of 128 generated pictures"),
     (126, 0.98, None), (128, 1.0, None), (127, 1.0, "another best class in 1 of 128 generated pictures")],
)  # fmt: skip
def test_an_engine_that_names_other_classes_is_refused(same: int, least: float, words: str | None) -> None:
    agreed = Agreed(pictures="generated pictures", same_class=same, of=128, largest_difference=0.2)
    right = Agreed(pictures="pictures of /folder", same_class=5, of=5, largest_difference=0)
    assert why_refused([right, agreed], least) == words
    assert why_refused([agreed, right], least) == words


def test_a_share_of_exactly_min_agreement_is_enough_and_one_picture_less_is_not() -> None:
    """Whatever the binary fractions of both are."""
    for thousandths, of in product(range(800, 1001, 5), range(100, 301, 4)):
        enough, rest = divmod(thousandths * of, 1000)
        for same_class, is_enough in ((enough, not rest), (enough + 1, True), (enough - 1, False)):
            agreed = Agreed(pictures="p", same_class=same_class, of=of, largest_difference=0)
            assert (why_refused([agreed], thousandths / 1000) is None) == is_enough, (thousandths, of, same_class)


@pytest.mark.parametrize("asked", ["int8", "auto"])
@pytest.mark.parametrize("refused", [None, "another best class in 5 of 128 generated pictures"])
def test_int8_is_tried_only_where_float32_of_its_engine_agrees(asked: str, refused: str | None) -> None:
    tried = []

    def try_one(candidate: ClassifierSettings) -> Trial:
        tried.append(f"{candidate.engine} {candidate.precision}")
        is_source = tried[-1] == "openvino float32"
        about = {"engine": candidate.engine, "precision": candidate.precision, "images_per_s": 9.0}
        return Trial.model_validate({**about, "refused": refused if is_source else None, "may_pass": is_source})

    wanted = settings(precision=asked, model="m.onnx", preprocessing="none", calibration="/folder")
    [int8] = [trial for trial in _try_each(list(candidates(wanted)), try_one) if trial.precision == "int8"]
    assert tried.count("openvino float32") == 1
    if refused is None:
        assert tried.count("openvino int8") == 1
        assert int8.refused is None
    else:
        assert "openvino int8" not in tried
        assert int8.refused == f"openvino (float32), of which it is made, was refused: {refused}"
        assert (int8.images_per_s, int8.may_pass) == (None, True)


def test_int8_is_compared_with_the_reference_about_pictures_of_the_user_only() -> None:
    none = np.zeros((4, 1, 1, 3), np.uint8)
    sets = [
        _PictureSet("generated pictures", none, are_of_a_user=False),
        _PictureSet("pictures of /folder", none, are_of_a_user=True),
    ]
    scores = np.eye(4, dtype=np.float32)
    wanted, found = (_Outcome(1.0, [scores, other]) for other in (scores, scores[[1, 0, 2, 3]]))
    told = {
        precision: [(each.pictures, each.same_class) for each in _compare(sets, wanted, found, precision)]
        for precision in ("float32", "int8")
    }
    assert told == {
        "float32": [("generated pictures", 4), ("pictures of /folder", 2)],
        "int8": [("pictures of /folder", 2)],
    }
    assert why_refused(_compare(sets, wanted, found, "int8"), 0.99) is not None


def test_generated_pictures_are_the_same_each_time_and_differ_from_each_other() -> None:
    made = generate_pictures(6, 40)
    assert made.shape == (6, 40, 40, 3)
    assert (made == generate_pictures(6, 40)).all()
    assert len({picture.tobytes() for picture in made}) == 6
    assert all(picture.std() > 10 for picture in made)


def test_pictures_of_a_large_folder_are_taken_evenly(tmp_path: Path) -> None:
    for number in range(2 * MOST_OF_A_FOLDER):
        (tmp_path / f"{number:04}.jpg").touch()
    names = [int(Path(file.path).stem) for file in find_pictures(tmp_path, MOST_OF_A_FOLDER)]
    assert (len(names), names[0], names[-1]) == (MOST_OF_A_FOLDER, 0, 2 * MOST_OF_A_FOLDER - 1)
    assert np.diff(names).max() <= 3


def test_a_folder_without_pictures_is_told_before_the_start(tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "colours.onnx")
    (tmp_path / "empty").mkdir()
    [fault] = find_source_faults(of_file(model, agreement_pictures=str(tmp_path / "empty")))
    assert str(fault) == (
        f"agreement_pictures: {tmp_path / 'empty'} is no folder of pictures; name one with pictures whose names end in "
        ".jpg, .jpeg, .png, .webp, .gif or .bmp"
    )
    (tmp_path / "empty" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(SetupError, match=r"agreement_pictures: .* is no folder of pictures"):
        find_or_prepare(of_file(model, agreement_pictures=str(tmp_path / "empty")))


def test_pictures_to_agree_about_need_something_to_choose() -> None:
    with pytest.raises(ValidationError, match="agreement_pictures: needs engine: auto or precision: auto"):
        ClassifierSettings(agreement_pictures="/path")


def test_a_min_agreement_needs_something_to_judge() -> None:
    with pytest.raises(ValidationError, match="min_agreement: needs engine: auto, precision: auto or precision: int8;"):
        ClassifierSettings(min_agreement=0.5)
    assert ClassifierSettings(min_agreement=0.99).min_agreement == 0.99  # the default, which changes nothing
    judged = ClassifierSettings(engine="auto", precision="auto", calibration="/path", min_agreement=0.5)
    assert settled(judged, "openvino", "int8").min_agreement == 0.5
    assert settled(judged, "tensorflow", "bfloat16").precision == "bfloat16"


def test_auto_needs_one_engine_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    onnx = settings(model="m.onnx", preprocessing="none")
    assert find_engine_fault(onnx) is None
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    fault = find_engine_fault(onnx)
    assert fault is not None
    assert "is not installed" in str(fault)


def test_an_auto_without_a_candidate_is_one_line() -> None:
    none = settings().model_copy(update={"threads": 0})
    assert str(find_engine_fault(none)) == (
        "engine: no engine computes resnet50 with precision: auto; write `precision: auto`"
    )
