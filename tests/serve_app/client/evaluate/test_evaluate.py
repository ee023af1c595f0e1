"""`evaluate` against the real API with fitted weights: its accuracy is known, since half of it was planted."""

import asyncio
import copy
import io
import json
import re
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from loadtest.rows.evaluation import read_evaluation
from serve_app.cache.cache import PredictionCache
from serve_app.cache.store import MemoryPredictions
from serve_app.classifier.api import build_model_api
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.fingerprint import fingerprint_model
from serve_app.client.__main__ import main
from serve_app.client.evaluate import options
from serve_app.client.evaluate.options import read_evaluate_options
from serve_app.metrics import Metrics
from tests.conftest import Fitted
from tests.fitted_model import CLASS_IDS
from tests.known_service import known_service
from tests.patience import HANG_S
from tests.served_api import served

COPIES = 25
PICTURES = COPIES * len(CLASS_IDS)
PLANTED = PICTURES // 20

Ended = tuple[int, str, str]
Evaluate = Callable[..., Awaitable[Ended]]


class Counting:
    """Counts the predictions that are asked for."""

    def __init__(self, api: ASGIApp) -> None:
        self._api = api
        self.predictions = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.predictions += scope.get("path", "").endswith("/predict")
        await self._api(scope, receive, send)


def relabelled(classifier: Classifier, **changes: Any) -> Classifier:
    """Return the same classifier with another manifest, such as other labels."""
    other = copy.copy(classifier)
    manifest = classifier.prepared.manifest.model_copy(update=changes)
    other.prepared = classifier.prepared.model_copy(update={"manifest": manifest})
    other.model = classifier.model.model_copy(update={"weights": manifest.weights})
    return other


@pytest.fixture(scope="module")
async def classifier(classifier: Classifier) -> AsyncIterator[Classifier]:
    """The classifier with a cache, and so its copies: the same few pictures are asked for again and again."""
    cached = copy.copy(classifier)
    cached._cache = PredictionCache(MemoryPredictions(100, 10 * HANG_S), "the weights of all copies", Metrics())
    yield cached
    await cached._cache.close()


@asynccontextmanager
async def serving(classifier: Classifier) -> AsyncIterator[tuple[str, Counting]]:
    counting = Counting(build_model_api(classifier))
    async with served(counting) as url:
        yield url, counting


@pytest.fixture(scope="module")
async def server(classifier: Classifier) -> AsyncIterator[str]:
    async with serving(classifier) as (url, _):
        yield url


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """Return what runs `evaluate` in this process."""

    async def run(server: str, *arguments: str | Path) -> Ended:
        given = ["evaluate", *map(str, arguments), "--server", server, "--give-up-after", str(HANG_S)]
        code = await asyncio.to_thread(main, given)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def folder(tmp_path: Path, fitted: Fitted) -> Path:
    """Return a folder with COPIES of each known picture, below a folder with its label."""
    folder = tmp_path / "photos"
    for label, data in fitted.pictures.items():
        (folder / label).mkdir(parents=True)
        for number in range(COPIES):
            (folder / label / f"{number:02}.jpg").write_bytes(data)
    return folder


def plant(folder: Path) -> set[str]:
    """Move PLANTED pictures below the label of another one, and return their names."""
    labels = sorted(path.name for path in folder.iterdir())
    planted = set()
    for number in range(PLANTED):
        source, target = labels[number % len(labels)], labels[(number + 3) % len(labels)]
        moved = folder / target / f"planted_{number}.jpg"
        (folder / source / f"{number:02}.jpg").rename(moved)
        planted.add(str(moved))
    return planted


def few(folder: Path, fitted: Fitted) -> Path:
    """Return a folder with each known picture once, named by the index of its class in val.txt."""
    folder.mkdir()
    for index, data in zip(CLASS_IDS, fitted.pictures.values(), strict=True):
        (folder / f"{index}.jpg").write_bytes(data)
    (folder / "val.txt").write_text("".join(f"{index}.jpg {index}\n" for index in CLASS_IDS))
    return folder


async def test_weights_that_know_every_picture_are_right_every_time(
    server: str, folder: Path, evaluate: Evaluate, classifier: Classifier, tmp_path: Path
) -> None:
    code, out, err = await evaluate(server, folder, "--format", "json")
    assert code == 0, err
    found = json.loads(out)
    (tmp_path / "accuracy.json").write_text(out)
    quoted = read_evaluation(tmp_path / "accuracy.json")  # as the stress kit quotes it
    assert (quoted.pictures, quoted.top1.share, quoted.file) == (PICTURES, 1.0, "accuracy.json")
    assert quoted.model.fingerprint == fingerprint_model(classifier.settings, classifier.prepared)
    assert (found["top1"]["count"], found["top1"]["of"], found["top1"]["share"]) == (PICTURES, PICTURES, 1.0)
    assert found["top1"]["low"] == pytest.approx(0.9812, abs=1e-4)
    assert found["top5"]["share"] == 1.0
    assert (found["wrong"], found["published"], found["weights_are_random"]) == ([], None, False)
    assert found["model"]["weights"] == "fitted.weights.h5"
    assert found["input"].endswith("preprocessing resnet50")


async def test_five_percent_of_planted_labels_are_found_to_be_five_percent(
    server: str, folder: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    planted = plant(folder)
    code, out, err = await evaluate(server, folder, "--format", "json", "--page", tmp_path / "wrong.html")
    assert code == 0, err
    found = json.loads(out)
    assert found["top1"]["share"] == 0.95
    assert found["top1"]["low"] < 0.95 < found["top1"]["high"]
    assert {wrong["file"] for wrong in found["wrong"]} == planted
    page = (tmp_path / "wrong.html").read_text()
    assert page.count("<figure>") == page.count('src="data:image/jpeg;base64,') == PLANTED
    assert all(name in page for name in planted)


async def test_the_result_for_people_has_the_worst_classes_and_the_wrong_pictures(
    server: str, folder: Path, evaluate: Evaluate
) -> None:
    planted = plant(folder)
    code, out, err = await evaluate(server, folder)
    assert code == 0, err
    assert re.search(r"^top-1 +95\.00 % \(95 % interval 91\.04–97\.26 %\); 190 of 200 *$", out, re.MULTILINE)
    assert "Worst classes\n" in out
    assert all(name in out for name in planted)
    assert "RANDOM" not in out + err


async def test_the_result_for_people_is_utf_8_in_every_locale(
    server: str, tmp_path: Path, fitted: Fitted, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    ascii_only = io.TextIOWrapper(written, "ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", ascii_only)
        code, _, err = await evaluate(server, few(tmp_path / "few", fitted))
    assert code == 0, err
    ascii_only.flush()
    assert "% interval" in written.getvalue().decode()


async def test_the_gate_is_the_exit_code(server: str, folder: Path, evaluate: Evaluate) -> None:
    plant(folder)
    code, out, err = await evaluate(server, folder, "--min-top1", "0.9")
    assert code == 0, err
    assert re.search(r"--min-top1 met: 0\.9500 of at least 0\.9 *$", out, re.MULTILINE)
    code, out, err = await evaluate(server, folder, "--min-top1", "0.96")
    assert code == 1, err
    assert "--min-top1 MISSED: 0.9500 of at least 0.96; 0.96 is within the interval: more pictures would decide" in out


async def test_a_run_is_resumed_where_it_ended_and_only_with_the_same_model(
    classifier: Classifier, evaluate: Evaluate, tmp_path: Path, fitted: Fitted
) -> None:
    folder, output = few(tmp_path / "few", fitted), tmp_path / "answers.jsonl"
    broken = folder / f"{CLASS_IDS[0]}.jpg"
    good = broken.read_bytes()
    broken.write_bytes(b"\xff\xd8\xff no picture")
    arguments = (folder, "--output", output, "--format", "json")
    async with serving(classifier) as (server, counting):
        code, out, err = await evaluate(server, *arguments)
        assert (code, json.loads(out)["pictures"], json.loads(out)["failed"]) == (1, 7, 1), err
        assert counting.predictions == 8
        broken.write_bytes(good)
        code, out, err = await evaluate(server, *arguments, "--resume")
        assert (code, json.loads(out)["top1"]["count"], json.loads(out)["failed"]) == (0, 8, 0), err
        assert counting.predictions == 8 + 1
        code, out, err = await evaluate(server, *arguments)
        assert (code, out) == (2, "")
        assert "already exists" in err
    output.write_text(before := output.read_text() + '{"file":"cut o')
    async with serving(relabelled(classifier, weights="other.h5", weights_sha256="0" * 64)) as (server, counting):
        code, out, err = await evaluate(server, *arguments, "--resume")
        assert (code, out, counting.predictions) == (2, "", 0)
        assert f"is of another model than {server} serves now" in err
        assert output.read_text() == before


async def test_random_weights_are_told_everywhere(
    classifier: Classifier, evaluate: Evaluate, tmp_path: Path, fitted: Fitted
) -> None:
    folder = few(tmp_path / "few", fitted)
    async with serving(relabelled(classifier, weights="random")) as (server, _):
        code, out, err = await evaluate(server, folder, "--page", tmp_path / "page.html")
        assert code == 0
        for shown in (out, err, (tmp_path / "page.html").read_text()):
            assert "RANDOM" in shown
        found = json.loads((await evaluate(server, folder, "--format", "json"))[1])
        assert found["weights_are_random"] is True


async def test_random_weights_of_another_seed_are_another_model(
    classifier: Classifier, evaluate: Evaluate, tmp_path: Path, fitted: Fitted
) -> None:
    (tmp_path / "photos" / "7").mkdir(parents=True)
    (tmp_path / "photos" / "7" / "one.jpg").write_bytes(fitted.pictures["thing 7"])
    fingerprints = []
    for seed in (0, 1):
        changed = relabelled(classifier, weights="random", weights_sha256=None)
        changed.settings = classifier.settings.model_copy(update={"seed": seed})
        async with serving(changed) as (server, _):
            found = json.loads((await evaluate(server, tmp_path / "photos", "--format", "json"))[1])
        fingerprints.append(found["model"]["fingerprint"])
    assert fingerprints[0] != fingerprints[1]


async def test_imagenet_weights_have_the_published_figure_beside_them(
    classifier: Classifier, evaluate: Evaluate, tmp_path: Path, fitted: Fitted
) -> None:
    folder = few(tmp_path / "few", fitted)
    async with serving(relabelled(classifier, weights="imagenet")) as (server, _):
        code, out, err = await evaluate(server, folder)
    assert code == 0, err
    assert "74.9 % top-1, 92.1 % top-5 for ImageNet's 50,000 validation pictures" in out
    assert "https://keras.io/api/applications/" in out
    assert "preprocessing resnet50" in out


async def test_an_api_agrees_with_itself(server: str, evaluate: Evaluate, tmp_path: Path, fitted: Fitted) -> None:
    folder = few(tmp_path / "few", fitted)
    code, out, err = await evaluate(server, folder, "--against", server, "--format", "json", "--min-agreement", "1")
    assert code == 0, err
    found = json.loads(out)
    assert (found["top1"]["count"], found["top1"]["of"]) == (8, 8)
    assert found["difference_percentiles"]["largest"] < 1e-6  # batches of another size are summed in another order
    assert found["disagreeing"] == []


async def test_exchanged_labels_are_a_disagreement_of_exactly_their_pictures(
    classifier: Classifier, server: str, evaluate: Evaluate, tmp_path: Path, fitted: Fitted
) -> None:
    folder, page, output = few(tmp_path / "few", fitted), tmp_path / "page.html", tmp_path / "answers.jsonl"
    labels = list(classifier.prepared.manifest.labels)
    first, second = CLASS_IDS[:2]
    labels[first], labels[second] = labels[second], labels[first]
    arguments = (folder, "--format", "json", "--min-agreement", "0.9", "--page", page, "--output", output, "--resume")
    async with serving(relabelled(classifier, labels=labels)) as (other, counting):
        code, out, err = await evaluate(server, *arguments, "--against", other)
        assert code == 1, err
        found = json.loads(out)
        assert found["top1"]["share"] == 0.75
        assert {each["file"] for each in found["disagreeing"]} == {f"{folder}/{index}.jpg" for index in (first, second)}
        assert found["gate"] == {"least": 0.9, "is_met": False}
        assert page.read_text().count("<h3>first</h3>") >= 2
        assert counting.predictions == 8
        assert json.loads((await evaluate(server, *arguments, "--against", other))[1]) == found
        assert counting.predictions == 8  # everything was in the output
        code, out, err = await evaluate(server, folder, "--output", output, "--resume")
        assert (code, out) == (2, "")
        assert "was written with --against" in err


async def test_a_second_service_that_does_not_answer_is_named(
    server: str, evaluate: Evaluate, tmp_path: Path, fitted: Fitted
) -> None:
    with known_service() as known:
        code, out, err = await evaluate(server, few(tmp_path / "few", fitted), "--against", known.url)
    assert (code, out) == (2, "")
    assert f"--against {known.url}: this service does not tell the names of its classes" in err


async def test_each_service_gets_its_own_key_only(
    server: str, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fitted: Fitted
) -> None:
    folder = few(tmp_path / "few", fitted)
    monkeypatch.setenv("FIRST_KEY", "first")
    monkeypatch.setenv("SECOND_KEY", "second")
    with known_service() as known:
        known.key, known.labels = "second", [f"thing {index}" for index in range(10)]
        arguments = (folder, "--api-key-env", "FIRST_KEY", "--against", known.url)
        code, out, err = await evaluate(server, *arguments)
        assert (code, out) == (2, "")
        assert f"--against {known.url}: requires an API key" in err
        assert "name the variable that contains it with --against-api-key-env NAME" in err
        assert [headers for headers in known.requests("GET", "/model/") if "authorization" in headers] == []
        code, out, err = await evaluate(server, *arguments, "--against-api-key-env", "SECOND_KEY")
        assert code == 0, err
        sent = known.requests("POST", "/model/predict")
    assert [headers["authorization"] for headers in sent] == ["Bearer second"] * len(CLASS_IDS)


def test_the_word_evaluate_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--parallel", "2", "evaluate", "photos"]) == 2
    assert "evaluate: is the first word of its command: " in capsys.readouterr().err


async def test_an_unknown_class_asks_for_no_prediction(
    classifier: Classifier, evaluate: Evaluate, folder: Path
) -> None:
    (folder / "thing 7").rename(folder / "thinng 7")
    async with serving(classifier) as (server, counting):
        code, out, err = await evaluate(server, folder)
    assert (code, out, counting.predictions) == (2, "", 0)
    assert f"error: the folders of {folder}: unknown classes: thinng 7 (nearest: thing 7" in err


async def test_a_page_escapes_every_text_and_loads_nothing(
    server: str, evaluate: Evaluate, tmp_path: Path, fitted: Fitted
) -> None:
    folder, page = tmp_path / "photos", tmp_path / "page.html"
    (folder / "thing 7").mkdir(parents=True)
    evil = folder / "thing 7" / "<img src=x onerror=alert(1)>.jpg"
    evil.write_bytes(fitted.pictures["thing 105"])
    code, _, err = await evaluate(server, folder, "--page", page)
    assert code == 0, err
    text = page.read_text()
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;.jpg" in text
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    [content] = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert content.replace("&#x27;", "'") == policy
    assert not re.search(r"<script|<link|https?://(?!127)|style=", text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "FOLDER: give one folder"),
        (["none"], "none: is not a folder"),
        ([".", "--min-top1", "74"], "--min-top1: '74' is not a share from 0 to 1, such as 0.74"),
        ([".", "--min-top"], "--min-top: no such option; did you mean --min-top1?"),
        ([".", "--min-agreement", "0.9"], "--min-agreement: needs --against URL"),
        (
            [".", "--against", "http://a", "--labels", "b.csv"],
            "--labels: --against compares two services without labels",
        ),
        ([".", "--resume"], "--resume: needs the file to resume"),
        ([".", "--page", "none/page.html"], "--page none/page.html: its folder does not exist"),
        ([".", "--page", f"{300 * 'x'}.html"], "x.html: File name too long; choose another file"),
        (
            [".", "--output", "same", "--page", "./same"],
            "--output same and --page same: are the same file; choose another name for one of them",
        ),
        (
            [".", "--output", "same", "--page", "link", "--resume"],
            "--output same and --page link: are the same file; choose another name for one of them",
        ),
    ],
)
def test_wrong_arguments_are_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("same")
    assert main(["evaluate", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert words in printed.err


def test_every_option_has_an_example_and_its_default_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for action in options.make_parser()._actions:
        assert action.help is not None
        assert action.dest == "help" or "for example: " in action.help, action.dest
        assert action.dest in ("what", "help") or "(default: " in action.help, action.dest
    with pytest.raises(SystemExit):
        read_evaluate_options(["--help"])
    assert "evaluate photos/ --labels truth.csv" in capsys.readouterr().out
