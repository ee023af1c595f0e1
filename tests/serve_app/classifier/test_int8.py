"""`precision: int8`: from which pictures it is made, when it may serve, and what is told of it."""

import io
import json
import os
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from serve_app.classifier import model_cache
from serve_app.classifier.agreed import Agreed
from serve_app.classifier.api import build_model_api
from serve_app.classifier.calibration import (
    LEAST_PICTURES,
    MOST_BYTES,
    MOST_PICTURES,
    UNKNOWN,
    Accuracy,
    Calibrated,
    Calibration,
    count_right,
    find_admission_fault,
    judge_int8,
    read_calibration,
)
from serve_app.classifier.choice import candidates, settled
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.engines.prepare import prepare
from serve_app.classifier.families import Geometry
from serve_app.classifier.fingerprint import fingerprint_model
from serve_app.classifier.machine import describe_processor
from serve_app.classifier.model_cache import (
    MANIFEST,
    Manifest,
    PreparedModel,
    _fingerprint,
    _name,
    find_engine_fault,
    find_or_prepare,
)
from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.sources import find_source_faults
from serve_app.errors import SetupError
from tests.conftest import THREADS
from tests.serve_app.classifier.small_networks import (
    COLOURS,
    SIDE,
    colour_probabilities,
    pictures,
    write_onnx,
)

GEOMETRY = Geometry(SIDE, SIDE)
AUDIT = """
import os, sys

def tell(event, about):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        note(f"{event} {about}")

def note(text):
    with open(os.environ["AUDITED"], "a") as file:
        print(sys.orig_argv[-2:], text, file=file)

note("began")
sys.addaudithook(tell)
"""


def settings(**args: object) -> ClassifierSettings:
    asked = {"engine": "openvino", "precision": "int8", "calibration": "/folder", "threads": THREADS}
    return ClassifierSettings.model_validate({**asked, **args})


def draw(folder: Path, count: int) -> Path:
    """Write so many different pictures, and return `folder`."""
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(pictures(count)[0]):
        Image.fromarray(picture).save(folder / f"{number:04}.png")
    return folder


async def test_a_network_becomes_int8_by_a_users_pictures_and_is_told_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an ONNX file: its preparation loads neither Keras nor TensorFlow. Nothing is sent anywhere meanwhile."""
    monkeypatch.setenv("SERVE_APP_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit/sitecustomize.py").write_text(AUDIT)
    (tmp_path / "home").mkdir()
    audited = {
        "PYTHONPATH": str(tmp_path / "audit"),
        "AUDITED": str(tmp_path / "audited"),
        "HOME": str(tmp_path / "home"),
    }
    model = write_onnx(tmp_path / "colours.onnx", convolution=True)
    folder = draw(tmp_path / "pictures", LEAST_PICTURES)
    wanted = settings(model=str(model), preprocessing="scale_0_1", resize=SIDE, calibration=str(folder))
    with monkeypatch.context() as patch:
        for name, value in audited.items():
            patch.setenv(name, value)
        found = find_or_prepare(wanted)
    lines = (tmp_path / "audited").read_text().splitlines()  # that processes began, and no socket
    assert any("serve_app.classifier.engines.prepare" in line for line in lines)
    assert [line for line in lines if not line.endswith("] began")] == []
    assert list((tmp_path / "home").rglob("*intel*")) == []

    calibrated = found.manifest.calibrated
    assert calibrated is not None
    assert (calibrated.pictures, calibrated.agreement.of) == (LEAST_PICTURES // 2, LEAST_PICTURES // 2)
    assert calibrated.agreement.same_class == LEAST_PICTURES // 2
    assert 0 < calibrated.agreement.largest_difference < 0.1  # rounded, and not much
    assert sorted(file.name for file in found.folder.iterdir()) == ["int8.bin", "int8.xml", MANIFEST]
    assert 'element_type="i8"' in (found.folder / "int8.xml").read_text()

    images, classes = pictures(6, seed=9)
    expected = colour_probabilities(images)
    classifier = await Classifier.load(wanted)
    try:
        transport = httpx.ASGITransport(build_model_api(classifier))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for picture, colour, scores in zip(images, classes, expected, strict=True):
                file = io.BytesIO()
                Image.fromarray(picture).save(file, "PNG")
                answer = (await client.post("/predict?top_k=1", content=file.getvalue())).json()
                assert answer["predictions"][0]["class_id"] == colour
                assert abs(answer["score"] - scores[colour]) < 0.1
                assert (answer["model"]["engine"], answer["model"]["precision"]) == ("openvino", "int8")
            info = (await client.get("/")).json()
        assert info["calibrated"] == calibrated.model_dump()
        assert classifier.prepared == found
    finally:
        await classifier.close()

    # What others may keep of it is kept apart: of float32, and of int8 made by other pictures.
    other = found.manifest.model_copy(update={"calibrated": calibrated.model_copy(update={"sha256": "0" * 64})})
    kept = {
        fingerprint_model(wanted, found),
        fingerprint_model(wanted, found.model_copy(update={"manifest": other})),
        fingerprint_model(settled(wanted, "openvino", "float32"), found),
    }
    assert len(kept) == 3

    # What is in the cache is judged anew by each start, and is not made anew for it.
    told = json.loads((found.folder / MANIFEST).read_text())
    told["calibrated"]["agreement"]["same_class"] -= 2
    (found.folder / MANIFEST).write_text(json.dumps(told))
    with pytest.raises(
        SetupError, match=r"^precision: int8 has another best class in 2 of 100 pictures of .* kept apart"
    ):
        find_or_prepare(wanted)
    assert find_or_prepare(wanted.model_copy(update={"min_agreement": 0.98})).folder == found.folder


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"calibration": None}, "calibration: missing; name a folder of pictures"),
        ({"engine": "tensorflow"}, "precision: int8 needs engine: openvino; with tensorflow use float32"),
        ({"engine": "jax"}, "precision: int8 needs engine: openvino"),
        ({"precision": "float32"}, "calibration: needs engine: openvino and precision: int8, or auto; remove the key"),
        ({"engine": "auto", "precision": "bfloat16"}, "calibration: needs engine: openvino"),
        ({"engine": "jax", "precision": "auto"}, "calibration: needs engine: openvino"),
    ],
)
def test_int8_and_its_pictures_go_together(args: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(**args)


@pytest.mark.parametrize(
    ("args", "has_int8"),
    [
        ({}, True),
        ({"engine": "openvino"}, True),
        ({"model": "m.onnx", "preprocessing": "none"}, True),
        ({"calibration": None}, False),
    ],
)
def test_auto_tries_int8_where_it_has_pictures_for_it(args: dict[str, object], has_int8: bool) -> None:  # noqa: FBT001
    tried = list(candidates(settings(**{"engine": "auto", "precision": "auto", **args})))
    assert [each.engine for each in tried if each.precision == "int8"] == ["openvino"] * has_int8
    assert {each.calibration for each in tried if each.precision != "int8"} == {None}


def test_a_missing_nncf_is_one_line_and_auto_goes_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    assert str(find_engine_fault(settings())) == (
        "precision: nncf is not installed, which makes int8 of a network; install it: .venv/bin/uv pip install -c "
        "requirements.lock -e '.[int8]'"
    )
    assert find_engine_fault(settings(engine="auto", precision="auto")) is None


def test_a_folder_with_too_little_is_told_before_the_start(tmp_path: Path) -> None:
    model = {"model": str(write_onnx(tmp_path / "colours.onnx")), "preprocessing": "scale_0_1"}
    folder = tmp_path / "pictures"
    wanted = settings(**model, calibration=str(folder))
    nothing = f"calibration: {folder} is no folder of pictures; name one with pictures whose names end in .jpg"
    assert any(str(fault).startswith(nothing) for fault in find_source_faults(wanted))
    draw(folder, LEAST_PICTURES - 1)
    few = (
        f"calibration: {folder} has 199 picture files; int8 needs 200: half of them to be made by, half to be judged "
        "by; add pictures like those of your clients"
    )
    assert few in map(str, find_source_faults(wanted))
    (folder / "notes.txt").write_text("no picture")
    assert few in map(str, find_source_faults(wanted))
    (folder / "broken.PNG").write_text("no picture")
    assert not any(fault.key == "calibration" for fault in find_source_faults(wanted))
    with pytest.raises(SetupError, match="has 199 different pictures that can be decoded; int8 needs 200"):
        read_calibration(wanted, GEOMETRY, COLOURS)


def test_pictures_that_do_not_fit_into_memory_are_told_before_they_are_decoded(tmp_path: Path) -> None:
    for number in range(MOST_PICTURES):
        (tmp_path / f"{number:04}.jpg").touch()
    fits = int((MOST_BYTES / MOST_PICTURES / 3) ** 0.5)
    with pytest.raises(SetupError, match="has 0 different pictures"):
        read_calibration(settings(calibration=str(tmp_path)), Geometry(fits, fits), COLOURS)
    with pytest.raises(SetupError) as caught:
        read_calibration(settings(calibration=str(tmp_path)), Geometry(4096, 4096), COLOURS)
    assert str(caught.value) == (
        f"calibration: {tmp_path}: 600 pictures of 4096×4096 pixels are 28.1 GiB, more than 2 GiB; leave fewer in it, "
        "200 or more, or lower crop"
    )


def test_pictures_are_decoded_before_the_network_is_converted(tmp_path: Path) -> None:
    """A folder that is not enough is told before that work: nothing has been written by then."""
    model = write_onnx(tmp_path / "colours.onnx")
    for number in range(LEAST_PICTURES):
        (tmp_path / f"{number:04}.jpg").touch()
    wanted = settings(model=str(model), preprocessing="scale_0_1", resize=SIDE, calibration=str(tmp_path))
    with pytest.raises(SetupError, match="has 0 different pictures"):
        prepare(wanted, tmp_path / "made")
    assert not (tmp_path / "made").exists()


WALKED: list[str] = []
"""The folders that this process has listed, since it began to count."""


def count_walks(event: str, about: tuple[object, ...]) -> None:
    if event == "os.scandir":
        WALKED.append(str(about[0]))


def test_a_folder_is_walked_once_before_a_start(tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "colours.onnx")
    folder = draw(tmp_path / "pictures", 2)
    wanted = settings(
        engine="auto", precision="auto", model=str(model), preprocessing="scale_0_1",
        calibration=str(folder), agreement_pictures=str(tmp_path),
    )  # fmt: skip
    sys.addaudithook(count_walks)
    for share in (None, 0.0):
        WALKED.clear()
        list(find_source_faults(wanted, gpu_share=share))
        assert (WALKED.count(str(tmp_path)), WALKED.count(str(folder))) == (
            1,
            2,
        )  # the second one as a part of the first


@pytest.mark.parametrize("weights", ["auto", "imagenet", "own.h5"])
def test_a_raised_min_agreement_is_told_before_the_start(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no replica's share of a GPU is known: `serve deploy` alone."""
    monkeypatch.setenv("SERVE_APP_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "own.h5").write_bytes(b"weights")
    source = str(tmp_path / weights) if weights == "own.h5" else weights
    wanted = settings(weights=source, calibration=str(draw(tmp_path / "pictures", LEAST_PICTURES)))
    made = wanted.model_copy(update={"weights": "imagenet"}) if weights == "auto" else wanted
    agreement = Agreed(pictures="pictures of /folder kept apart", same_class=297, of=300, largest_difference=0.2)
    manifest = Manifest(
        name="resnet50", weights="imagenet", weights_sha256=None, labels_from="imagenet", labels=["a", "b"],
        calibrated=Calibrated(pictures=300, sha256="0" * 64, agreement=agreement, accuracy=None),
    )  # fmt: skip
    place = tmp_path / "cache" / "models" / _fingerprint(made)
    place.mkdir(parents=True)
    (place / MANIFEST).write_text(manifest.model_dump_json())
    for share in (None, 0.0):
        assert list(find_source_faults(wanted, gpu_share=share)) == []
        [fault] = find_source_faults(wanted.model_copy(update={"min_agreement": 0.995}), gpu_share=share)
        assert str(fault).startswith(
            "precision: int8 has another best class in 3 of 300 pictures of /folder kept apart"
        )


def test_predictions_of_int8_are_not_shared_between_unlike_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreement = Agreed(pictures="pictures", same_class=300, of=300, largest_difference=0.2)
    int8, float32 = (
        Manifest(
            name="resnet50", weights="imagenet", weights_sha256=None, labels_from="imagenet", labels=["a", "b"],
            calibrated=calibrated,
        )
        for calibrated in (Calibrated(pictures=300, sha256="0" * 64, agreement=agreement, accuracy=None), None)
    )  # fmt: skip

    def names() -> list[str]:
        return [
            fingerprint_model(settings(), PreparedModel(folder=tmp_path, manifest=manifest, fingerprint="0"))
            for manifest in (int8, float32)
        ]

    here = names()
    (tmp_path / "cpuinfo").write_text("model name\t: another one\nflags\t\t: avx2 avx512_vnni\n")
    monkeypatch.setattr(describe_processor, "__defaults__", (tmp_path / "cpuinfo",))
    there = names()
    assert here[0] != there[0]
    assert here[1] == there[1]


def test_copies_of_a_picture_count_once(tmp_path: Path) -> None:
    draw(tmp_path, LEAST_PICTURES)
    for number in range(LEAST_PICTURES):
        (tmp_path / f"copy-{number:04}.png").write_bytes((tmp_path / f"{number % 50:04}.png").read_bytes())
    (tmp_path / "0199.png").unlink()
    with pytest.raises(SetupError, match="has 199 different pictures"):
        read_calibration(settings(calibration=str(tmp_path)), GEOMETRY, COLOURS)


def test_no_picture_judges_what_was_made_by_it(tmp_path: Path) -> None:
    read = read_calibration(settings(calibration=str(draw(tmp_path, LEAST_PICTURES + 1))), GEOMETRY, COLOURS)
    made_by, judged_by = ({picture.tobytes() for picture in each} for each in (read.making, read.judging))
    assert (len(made_by), len(judged_by)) == (101, 100)
    assert not made_by & judged_by
    assert (read.classes == UNKNOWN).all()
    assert read.sha256 == read_calibration(settings(calibration=str(tmp_path)), GEOMETRY, COLOURS).sha256


def test_a_folder_named_for_a_class_labels_its_pictures(tmp_path: Path) -> None:
    folders = {"Red": 0, "1": 1, "blue_": 2, "no class": UNKNOWN}
    expected = {}
    for number, picture in enumerate(pictures(LEAST_PICTURES)[0]):
        name, class_id = list(folders.items())[number % len(folders)]
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / name / f"{number:04}.png")
        expected[picture.tobytes()] = class_id
    read = read_calibration(settings(calibration=str(tmp_path)), GEOMETRY, COLOURS)
    assert read.classes.tolist() == [expected[picture.tobytes()] for picture in read.judging]
    assert set(read.classes) == {UNKNOWN, 0, 1, 2}


def test_names_do_not_decide_which_pictures_judge(tmp_path: Path) -> None:
    draw(tmp_path, LEAST_PICTURES)
    for number in range(0, LEAST_PICTURES, 2):
        Image.new("RGB", (SIDE, SIDE), (number, 0, 0)).save(tmp_path / f"{number:04}.png")
    read = read_calibration(settings(calibration=str(tmp_path)), GEOMETRY, COLOURS)
    for half in (read.making, read.judging):
        assert 0 < sum(picture[..., 2].any() for picture in half) < len(half)


def scores_of(classes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return scores with these best classes."""
    return np.eye(3, dtype=np.float32)[np.maximum(classes, 0)]


def test_being_right_is_counted_where_most_pictures_are_labelled_and_enough() -> None:
    classes = np.array([0, 1, 2, UNKNOWN] * 40)
    right = scores_of(classes)
    wrong = right.copy()
    wrong[:4] = right[1]
    unlabelled = Agreed(pictures="pictures without a label", same_class=39, of=40, largest_difference=1.0)
    assert count_right(classes, right, wrong) == Accuracy(
        of=120, float32=120, int8=118, commonest=40, unlabelled=unlabelled
    )
    assert count_right(classes[:100], right[:100], wrong[:100]) is None
    half = np.array([0, 1, UNKNOWN, UNKNOWN] * 60)
    assert count_right(half, scores_of(half), scores_of(half)) is None
    whole = classes[classes != UNKNOWN]
    counted = count_right(whole, scores_of(whole), scores_of(whole))
    assert counted == Accuracy(of=120, float32=120, int8=120, commonest=40, unlabelled=None)


def made_calibration(classes: NDArray[np.int64]) -> Calibration:
    none = np.zeros((len(classes), 1, 1, 3), np.uint8)
    return Calibration(Path("/folder"), making=none, judging=none, classes=classes)


def test_int8_that_always_names_one_class_is_refused_though_labels_are_of_that_class() -> None:
    for classes in (np.array([1] * 150 + [UNKNOWN] * 149), np.array([1] * 300), np.array([1] * 298 + [0] * 2)):
        calibration = made_calibration(classes)
        truth = np.where(classes == UNKNOWN, np.arange(len(classes)) % 3, classes)
        truth[:4] = 2  # float32 is not always right, else both agree
        judged = judge_int8(calibration, scores_of(truth), scores_of(np.ones(len(classes), np.int64)))
        assert judged.agreement.same_class < 0.99 * judged.agreement.of
        fault = find_admission_fault(judged, 0.99)
        assert fault is not None
        assert "because naming always the same class would be right about" in fault.what or (
            "because it has another best class in" in fault.what and "without a label" in fault.what
        )


@pytest.mark.parametrize("which", ["float32", "int8"])
def test_numbers_that_are_not_finite_agree_about_nothing(which: str) -> None:
    calibration = made_calibration(np.array([0, 1, 2] * 40))
    scores = {name: scores_of(calibration.classes) for name in ("float32", "int8")}
    scores[which][7] = np.nan
    with pytest.raises(SetupError, match=f"^precision: {which} of this network gives numbers that are not finite"):
        judge_int8(calibration, scores["float32"], scores["int8"])


def test_other_pictures_and_another_decoding_make_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path, 2)
    wanted = settings(calibration=str(tmp_path), weights="random")
    names = [_name(wanted, 0.0), _name(wanted.model_copy(update={"reduced_decoding": False}), 0.0)]
    os.utime(tmp_path / "0000.png", (0, 0))
    names.append(_name(wanted, 0.0))
    (tmp_path / "0001.png").unlink()
    names.append(_name(wanted, 0.0))
    names.append(_name(wanted.model_copy(update={"max_upload_bytes": 9}), 0.0))
    names.append(_name(settled(wanted, "openvino", "float32"), 0.0))
    monkeypatch.setattr(model_cache, "DECODING", "another Pillow")
    names.append(_name(wanted, 0.0))
    assert len(set(names)) == 7
    assert _name(settled(wanted, "openvino", "float32"), 0.0) == names[5]
    assert _name(wanted.model_copy(update={"min_agreement": 0.5}), 0.0) == names[6]


def accuracy(float32: int, int8: int, commonest: int = 40, unlabelled: int | None = None) -> Accuracy:
    """Return that of 100 labelled pictures, and of 50 others if int8 agrees about so many of them."""
    others = None
    if unlabelled is not None:
        others = Agreed(pictures="pictures without a label", same_class=unlabelled, of=50, largest_difference=0.2)
    return Accuracy(of=100, float32=float32, int8=int8, commonest=commonest, unlabelled=others)


@pytest.mark.parametrize(
    ("right", "least", "reason"),
    [
        (accuracy(80, 79), 0.99, None),
        (accuracy(80, 78), 0.99, "it loses a larger share of them than 1 - min_agreement"),
        (accuracy(80, 70), 0.9, None),
        (accuracy(49, 49), 0.99, "float32 is right about less than 0.5 of them, as if they were those of another"),
        (accuracy(0, 0), 0.99, "float32 is right about less than"),
        (accuracy(100, 100, commonest=100), 0.99, "naming always the same class would be right about 100"),
        (accuracy(80, 80, commonest=79), 0.99, None),
        (accuracy(80, 80, commonest=80), 0.99, "naming always the same class would be right about 80"),
        (accuracy(80, 80, unlabelled=50), 0.99, None),
        (accuracy(80, 80, unlabelled=49), 0.99, "it has another best class in 1 of 50 pictures without a label"),
        (accuracy(80, 80, unlabelled=49), 0.98, None),
        (None, 0.99, ""),
    ],
)
def test_int8_that_is_as_right_as_float32_may_differ(right: Accuracy | None, least: float, reason: str | None) -> None:
    agreement = Agreed(pictures="pictures of /folder kept apart", same_class=80, of=100, largest_difference=0.2)
    fault = find_admission_fault(Calibrated(pictures=100, sha256="0" * 64, agreement=agreement, accuracy=right), least)
    if fault is None:
        assert reason is None
        return
    assert reason is not None
    told = right and (
        f"its labels do not outweigh that, because {reason}",
        f"it is right about {right.int8} of 100 labelled ones, float32 about {right.float32}; write",
    )
    assert all(part in str(fault) for part in told or ("min_agreement is 0.99; write",))


def test_a_refusal_of_random_weights_says_that_they_are_random() -> None:
    agreement = Agreed(pictures="pictures of /folder kept apart", same_class=8, of=100, largest_difference=0.2)
    calibrated = Calibrated(pictures=100, sha256="0" * 64, agreement=agreement)
    facts = {"name": "resnet50", "weights_sha256": None, "labels_from": "placeholder", "labels": ["a", "b"]}
    own, random = (
        str(Manifest.model_validate({**facts, "weights": weights, "calibrated": calibrated}).find_admission_fault(0.99))
        for weights in ("own.h5", "random")
    )
    assert "; its weights are random, so agreement means nothing; write" in random
    assert "random" not in own


@pytest.mark.parametrize(("same", "least", "is_refused"), [(297, 0.99, False), (296, 0.99, True), (296, 0.98, False)])
def test_int8_is_admitted_by_its_agreement(same: int, least: float, is_refused: bool) -> None:  # noqa: FBT001
    agreement = Agreed(pictures="pictures of /folder kept apart", same_class=same, of=300, largest_difference=0.2)
    calibrated = Calibrated(pictures=MOST_PICTURES - 300, sha256="0" * 64, agreement=agreement)
    fault = find_admission_fault(calibrated, least)
    assert (fault is not None) == is_refused
    assert fault is None or str(fault) == (
        "precision: int8 has another best class in 4 of 300 pictures of /folder kept apart: it agrees in 0.9867 of "
        "them, min_agreement is 0.99; write `precision: float32`, or name a folder with more pictures like those of "
        "your clients, or lower min_agreement"
    )
