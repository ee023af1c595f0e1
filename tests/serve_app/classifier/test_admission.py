"""Admission: who is taken, who is refused and until when, and that a refusal or a missed deadline costs nothing."""

import asyncio
import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import pairwise

import httpx
import pytest
from starlette.types import Scope

from serve_app.classifier.admission import BURST_S, Admission
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.early import build_entry
from serve_app.classifier.settings import ClassifierSettings
from serve_app.entrance.gate import Enter
from serve_app.entrance.guard import Guard
from serve_app.errors import Overloaded, ServiceError, ShareExceeded
from serve_app.metrics import MISSED_DEADLINES, QUEUE_PICTURES, REFUSALS, STAGE_MS
from serve_app.shares import EVERYONE, Account
from serve_app.uploads import HeldUpload
from tests.conftest import Fitted
from tests.counted import Counted
from tests.held_engine import HANG_S, held, in_two_parts
from tests.serve_app.classifier.test_model_api import assert_error

PICTURE_S = 0.1


def admission(clock: Callable[[], float] = lambda: 0.0, **args: object) -> Admission:
    return Admission(ClassifierSettings.model_validate(args), Counted(), picture_s=PICTURE_S, clock=clock)


def fill(gate: Admission, stack: ExitStack, within_s: float | None = None) -> Overloaded:
    """Take places until one is refused; return the refusal."""
    while True:
        try:
            stack.enter_context(gate.place(within_s))
        except Overloaded as exc:
            return exc


def waits_in_a_flood(account: Account, refusal: type[ServiceError]) -> list[float]:
    """Return how long the queue is, 4 s at most, after each of 600 pictures; three come while one is worked off."""
    now_s = 100.0
    gate = admission(lambda: now_s, max_wait_s=4)
    queue: list[ExitStack] = []
    waits_s = []
    for _ in range(600):
        for _ in range(3):
            place = ExitStack()
            with suppress(refusal):
                place.enter_context(gate.place(account=account))
                queue.append(place)
        now_s += PICTURE_S
        queue.pop(0).close()
        waits_s.append(gate.wait_s)
    return waits_s


def test_pictures_are_taken_as_long_as_their_turn_comes_in_time() -> None:
    gate = admission(max_wait_s=1.05)
    with ExitStack() as taken:
        refusal = fill(gate, taken)
        assert gate.wait_s == pytest.approx(1.1)  # eleven: the tenth had 0.9 s before it, the eleventh 1.0 s
        assert refusal.retry_after_s == math.ceil(gate.wait_s)
        assert "11 pictures" in refusal.detail
        assert "1.1 s" in refusal.detail
    assert gate.wait_s == 0
    gate.check()


def test_the_places_of_one_request_are_taken_together_or_not_at_all() -> None:
    gate = admission(max_queue=5)
    with gate.reserve(3) as reserved:
        assert gate.wait_s == pytest.approx(0.3)
        with pytest.raises(Overloaded), gate.reserve(3):
            pass
        assert gate.wait_s == pytest.approx(0.3)
        with reserved.place():
            gate.check(pictures=2)
        assert gate.wait_s == pytest.approx(0.2)
    assert gate.wait_s == 0


def test_a_picture_that_outlives_its_request_keeps_its_place() -> None:
    """Another request waits for it, and one that begins only then takes a place of its own."""
    gate = admission()
    with ExitStack() as longer:
        with gate.reserve(2) as reserved:
            longer.enter_context(reserved.place())
        assert gate.wait_s == pytest.approx(0.1)
        longer.enter_context(reserved.place())
        assert gate.wait_s == pytest.approx(0.2)
    assert gate.wait_s == 0


def test_a_place_of_a_request_that_waits_for_anothers_picture_is_no_work_any_more() -> None:
    gate = admission(max_queue=3)
    with gate.reserve(3) as reserved, reserved.place():
        with reserved.share(), reserved.share():
            assert gate.wait_s == pytest.approx(0.1)
            with pytest.raises(Overloaded, match="3 pictures"), reserved.share():
                pass
        gate.check(pictures=2)
    assert gate.wait_s == 0


def test_the_first_request_is_taken_however_many_pictures_it_has() -> None:
    gate = admission(max_wait_s=1)
    with gate.reserve(64):
        pass
    with gate.place(), pytest.raises(Overloaded, match="12 pictures come first"), gate.reserve(12):
        pass


def test_a_queue_that_stands_becomes_half_as_long_as_a_burst_may_be_until_it_has_been_short() -> None:
    now_s = 100.0
    gate = admission(lambda: now_s, max_wait_s=4)
    with ExitStack() as taken:
        fill(gate, taken)
        assert gate.wait_s == pytest.approx(4.1)
        now_s += BURST_S
        assert gate.most_wait_s == 4
        now_s += BURST_S / 2
        assert gate.most_wait_s == 3
        now_s += BURST_S
        assert gate.most_wait_s == 2
        assert "longer than 2 s" in fill(gate, taken).detail
    assert gate.most_wait_s == 4  # all were answered
    with ExitStack() as taken:
        fill(gate, taken)
        assert gate.wait_s == pytest.approx(4.1)


def test_the_work_of_a_standing_queue_hovers_at_its_limit() -> None:
    waits_s = waits_in_a_flood(EVERYONE, Overloaded)
    assert max(waits_s[:200]) == pytest.approx(4.0)
    assert [min(waits_s[300:]), max(waits_s[300:])] == pytest.approx([2.0, 2.0], abs=PICTURE_S)


def test_while_a_queue_becomes_shorter_most_of_what_is_done_is_followed_by_another_picture() -> None:
    waits_s = waits_in_a_flood(EVERYONE, Overloaded)
    nobody_was_taken = [after < before - PICTURE_S / 2 for before, after in pairwise(waits_s)]
    assert sum(nobody_was_taken) == pytest.approx(2 / PICTURE_S, abs=1)  # from 4 to 2 s
    assert not any(first and second for first, second in pairwise(nobody_was_taken))


def test_an_idle_replica_takes_a_picture_however_slow_it_is() -> None:
    gate = admission(max_wait_s=0.001)
    with gate.place():
        pass


def test_a_client_in_a_hurry_is_refused_earlier_and_a_patient_one_no_later() -> None:
    gate = admission(max_wait_s=1.05)
    with ExitStack() as taken:
        fill(gate, taken, within_s=0.35)
        assert gate.wait_s == pytest.approx(0.4)
        fill(gate, taken, within_s=60)
        assert gate.wait_s == pytest.approx(1.1)


def test_the_number_of_pictures_is_bounded_too() -> None:
    gate = admission(max_wait_s=600, max_queue=3)
    with ExitStack() as taken:
        assert "3 pictures" in fill(gate, taken).detail
    assert isinstance(gate.metrics, Counted)
    assert gate.metrics.of(REFUSALS) == {"queue_full": 1}
    assert gate.metrics.told(QUEUE_PICTURES) == [1, 2, 3, 2, 1, 0]


def test_the_service_time_follows_what_the_engine_shows() -> None:
    gate = admission()
    with gate.place():
        for _ in range(30):
            gate.learn(8, 8 * 0.02)
        assert gate.wait_s == pytest.approx(0.02, rel=0.01)


def test_a_process_that_was_stopped_is_not_taken_for_a_slow_one() -> None:
    gate = admission()
    with gate.place():
        before_s = gate.wait_s
        gate.learn(1, 10.0)
        assert gate.wait_s < 2 * before_s


def test_the_slower_one_of_engine_and_decoding_decides_who_is_taken() -> None:
    """Two threads decode a picture in 3 s each, so one is worked off every 1.5 s, whatever the engine needs for it."""
    flood = Account("flood", lambda: 0.5, Counted())
    gate = admission(max_wait_s=7, decode_threads=2)
    for _ in range(50):
        gate.learn_decoding(3.0)
    with ExitStack() as taken:
        refusal = fill(gate, taken)
        assert gate.wait_s == pytest.approx(7.5, rel=0.01)  # five: the fifth had 6 s before it
        assert refusal.retry_after_s == 8
        assert "5 pictures come first and take about 7.5 s" in refusal.detail
    with gate.place(account=flood), gate.place(account=flood), pytest.raises(ShareExceeded, match="2 of 5"):
        gate.check(account=flood)


def test_decoding_that_is_quicker_than_the_engine_changes_nothing() -> None:
    gate = admission(decode_threads=2)
    with gate.place():
        for took_s in (0.003, 0.15, 0.003, 0.19) * 10:
            gate.learn_decoding(took_s)
            assert gate.wait_s == PICTURE_S


def test_one_huge_picture_among_others_changes_nothing() -> None:
    gate = admission()
    with gate.place():
        for took_s in (0.003, 10.0, 0.003):
            gate.learn_decoding(took_s)
            assert gate.wait_s == PICTURE_S


def test_a_replica_that_has_decoded_nothing_but_huge_pictures_takes_one_at_a_time_and_recovers_by_them() -> None:
    gate = admission(max_wait_s=1)
    for _ in range(50):
        gate.learn_decoding(1000.0)
    with gate.place(), pytest.raises(Overloaded, match="1 pictures come first"):
        gate.check()
    for _ in range(50):
        with gate.place():
            gate.learn_decoding(0.003)
    with gate.place():
        gate.check()
        assert gate.wait_s == PICTURE_S


async def test_a_picture_that_cannot_be_decoded_counts_for_the_queue_and_a_jobs_picture_does_not(
    classifier: Classifier, fitted: Fitted
) -> None:
    """The engine is said to need next to nothing, so that any decoding is slower."""
    broken = next(iter(fitted.pictures.values()))[:2000]
    async with held(classifier, Counted(), picture_s=1e-9) as replica:
        gate = replica.classifier.admission
        with gate.place():
            with pytest.raises(ServiceError):
                await replica.classifier.predict_in_background(broken, 1)
            assert gate.wait_s == 1e-9
            for _ in range(5):
                answer = await replica.client.post("/predict", content=broken)
                assert_error(answer, 400, "unreadable_image", "truncated")
            assert gate.wait_s > 1e-9


def test_bytes_in_memory_are_bounded_over_all_uploads() -> None:
    gate = admission(max_upload_bytes=1000, max_held_bytes=20_000)
    first, second = HeldUpload(gate.uploads), HeldUpload(gate.uploads)
    first.add(15_000)
    second.add(5_000)
    with pytest.raises(Overloaded, match="20,000 bytes"):
        second.add(1)
    first.free()
    first.free()
    second.add(15_000)
    second.free()
    HeldUpload(gate.uploads).add(20_000)


def test_who_waits_for_anothers_picture_counts_but_makes_nobody_wait() -> None:
    gate = admission(max_wait_s=600, max_queue=3)
    with gate.place(), gate.share(), gate.share():
        assert gate.wait_s == pytest.approx(PICTURE_S)
        with pytest.raises(Overloaded, match="3 pictures"):
            gate.check()
        with pytest.raises(Overloaded), gate.share():
            pass
    gate.check()


def test_an_upload_is_counted_once_whoever_holds_it() -> None:
    gate = admission(max_upload_bytes=1000, max_held_bytes=20_000)
    first = HeldUpload(gate.uploads)
    first.add(20_000)
    first.data = b"x"
    second = first.hand_over()
    assert (first.data, second.data) == (b"", b"x")
    first.free()
    with pytest.raises(Overloaded, match="20,000 bytes"):
        HeldUpload(gate.uploads).add(1)
    second.free()
    HeldUpload(gate.uploads).add(20_000)


def refusal_at(enter: Enter, scope: Scope) -> ServiceError | None:
    """Return with what a request is refused at once."""
    try:
        with enter({**scope}):
            return None
    except ServiceError as exc:
        return exc


@pytest.mark.parametrize(
    ("method", "path", "headers", "is_refused"),
    [
        ("POST", "/model/predict", [], True),
        ("POST", "/predict", [(b"x-deadline-ms", b"60000")], True),
        ("POST", "/model/predict", [(b"x-deadline-ms", b"soon")], True),
        ("POST", "/model/predict", [(b"x-deadline-ms", b"9" * 400)], True),
        ("POST", "/model/predict", [(b"x-deadline-ms", b"9" * 5000)], True),
        ("POST", "/model/predict", [(b"x-deadline-ms", b"\xb2")], True),
        ("GET", "/model/predict", [], False),
        ("GET", "/model/ready", [], False),
        ("POST", "/model/other", [], False),
    ],
)
def test_a_full_queue_refuses_predictions_before_the_api_and_nothing_else(
    method: str, path: str, headers: list[tuple[bytes, bytes]], *, is_refused: bool
) -> None:
    gate = admission(max_wait_s=1)
    enter = build_entry(gate, Guard(None))
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    assert refusal_at(enter, scope) is None
    with ExitStack() as stack:
        fill(gate, stack)
        assert isinstance(refusal_at(enter, scope), Overloaded) is is_refused
    assert refusal_at(enter, scope) is None


def test_a_client_in_a_hurry_is_refused_early_while_others_are_taken() -> None:
    gate = admission(max_wait_s=10)
    enter = build_entry(gate, Guard(None))
    scope = {"type": "http", "method": "POST", "path": "/model/predict", "headers": [(b"x-deadline-ms", b"100")]}
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(gate.place())
        assert isinstance(refusal_at(enter, scope), Overloaded)
        assert refusal_at(enter, {**scope, "headers": []}) is None


async def wait_until(condition: Callable[[], bool]) -> None:
    """Return when what other tasks do has made the condition true."""
    async with asyncio.timeout(HANG_S):
        while not condition():  # noqa: ASYNC110 nothing tells of it
            await asyncio.sleep(0.005)


async def test_beyond_the_bound_everyone_is_answered_and_what_was_taken_is_right(
    classifier: Classifier, fitted: Fitted
) -> None:
    metrics = Counted()
    async with held(classifier, metrics, picture_s=100, max_wait_s=450) as replica:
        label, data = next(iter(fitted.pictures.items()))
        posts = [asyncio.create_task(replica.client.post("/predict", content=data)) for _ in range(60)]
        await wait_until(lambda: metrics.of(REFUSALS).total() == 55)  # the fifth had 400 s before it, the sixth 500 s
        replica.engine.release()
        answers = await asyncio.gather(*posts)
        right = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 503]
        assert (len(right), len(refused)) == (5, 55)
        assert {answer.json()["prediction"] for answer in right} == {label}
        for answer in refused:
            assert_error(answer, 503, "overloaded", "pictures", "try again later")
            assert answer.headers["Retry-After"] == "500"
        assert metrics.of(REFUSALS) == {"wait_too_long": 55}
        assert metrics.pictures == len(metrics.told(STAGE_MS, "inference")) == 5
        assert metrics.told(QUEUE_PICTURES) == [*range(1, 6), *reversed(range(5))]
        assert (await replica.client.post("/predict", content=data)).status_code == 200


async def test_a_missed_deadline_is_a_504_and_never_reaches_the_engine(classifier: Classifier, fitted: Fitted) -> None:
    metrics = Counted()
    async with held(classifier, metrics, picture_s=0.001) as replica:
        data = next(iter(fitted.pictures.values()))
        others = [asyncio.create_task(replica.client.post("/predict", content=data)) for _ in range(4)]
        await replica.engine.begun()
        late = await replica.client.post("/predict", content=data, headers={"X-Deadline-Ms": "200"})
        assert_error(late, 504, "deadline_exceeded", "0.2 s")
        assert metrics.of(MISSED_DEADLINES)[""] == 1
        replica.engine.release()
        assert {(await other).status_code for other in others} == {200}
        assert metrics.pictures == replica.engine.pictures == 4


@pytest.mark.parametrize("deadline", ["0", "-5", "soon", "1.5", "", "600001"])
async def test_a_deadline_that_is_none_is_refused_by_name(
    model_client: httpx.AsyncClient, fitted: Fitted, deadline: str
) -> None:
    response = await model_client.post(
        "/predict", content=fitted.pictures["thing 7"], headers={"X-Deadline-Ms": deadline}
    )
    assert_error(response, 422, "invalid_parameter", "X-Deadline-Ms")


async def test_no_client_can_make_the_deadline_longer(classifier: Classifier, fitted: Fitted) -> None:
    async with held(classifier, Counted(), deadline_s=0.05) as replica:
        data = next(iter(fitted.pictures.values()))
        response = await replica.client.post("/predict", content=data, headers={"X-Deadline-Ms": "600000"})
        assert_error(response, 504, "deadline_exceeded", "0.05 s")


async def test_uploads_are_bounded_together_in_memory(classifier: Classifier) -> None:
    metrics, half_sent, go_on = Counted(), asyncio.Event(), asyncio.Event()
    limits = {"max_upload_bytes": 2_000_000, "max_held_bytes": 2_100_000}
    async with held(classifier, metrics, **limits) as replica:
        body = in_two_parts(b"x" * 2_000_000, half_sent, go_on)
        first = asyncio.create_task(replica.client.post("/predict", content=body))
        await half_sent.wait()
        second = await replica.client.post("/predict", content=b"y" * 1_900_000)
        assert_error(second, 503, "overloaded", "bytes are in memory")
        assert metrics.of(REFUSALS) == {"memory": 1}
        go_on.set()
        assert_error(await first, 415, "unsupported_image")
        assert_error(await replica.client.post("/predict", content=b"y" * 1_900_000), 415, "unsupported_image")


async def test_an_upload_that_takes_too_long_is_a_408_and_leaves_nothing_in_memory(classifier: Classifier) -> None:
    never = asyncio.Event()
    limits = {"max_upload_bytes": 2_000_000, "max_held_bytes": 2_100_000, "upload_timeout_s": 0.1}
    async with held(classifier, Counted(), **limits) as replica:
        body = in_two_parts(b"x" * 2_000_000, asyncio.Event(), never)
        assert_error(await replica.client.post("/predict", content=body), 408, "upload_too_slow", "0.1 s")
        assert_error(await replica.client.post("/predict", content=b"y" * 1_900_000), 415, "unsupported_image")


def test_memory_for_less_than_one_upload_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="max_held_bytes: must be at least 1016384"):
        ClassifierSettings(max_upload_bytes=1_000_000, max_held_bytes=1_000_000)
