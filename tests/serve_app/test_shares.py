"""Fair shares: what one client may hold of a replica, and that a flood of one client leaves the other served."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from serve_app.cache.cache import PredictionCache
from serve_app.cache.classification import Classification
from serve_app.cache.redis import RedisPredictions
from serve_app.cache.store import MemoryPredictions
from serve_app.classifier.admission import BURST_S, Admission
from serve_app.classifier.batcher import Scores
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.early import build_entry
from serve_app.classifier.job_settings import JobSettings
from serve_app.classifier.settings import MULTIPART_OVERHEAD_BYTES
from serve_app.entrance.gate import GATE
from serve_app.entrance.guard import Guard
from serve_app.entrance.keys import ApiKeys, KeySource
from serve_app.entrance.middleware import RefusesAtOnce
from serve_app.entrance.under_way import UnderWay
from serve_app.errors import Overloaded, ServiceError, ShareExceeded, Unauthorized
from serve_app.jobs.outage import Outage
from serve_app.jobs.queue.submit import JobStore
from serve_app.jobs.waiters import Waiters
from serve_app.metrics import (
    API_KEY_QUEUE_PICTURES,
    API_KEY_REFUSALS,
    API_KEY_REQUESTS,
    BATCH_PICTURES,
    QUEUE_PICTURES,
    REFUSALS,
)
from serve_app.open_inference.grpc_messages import message_class
from serve_app.open_inference.grpc_service import GrpcInference
from serve_app.open_inference.inference import Inference
from serve_app.shares import Account, Resource, Shares
from serve_app.uploads import HeldUpload, UploadBudget
from serve_app.web import build_api
from tests.conftest import Fitted
from tests.counted import Counted
from tests.held_engine import HANG_S, held, in_two_parts
from tests.patience import PATIENT, PATIENT_JOBS, until
from tests.redis_server import RedisServer
from tests.serve_app.classifier.test_admission import PICTURE_S, admission, refusal_at, waits_in_a_flood
from tests.serve_app.classifier.test_model_api import assert_error
from tests.serve_app.open_inference.test_grpc_service import Told, pictures

BYTES, JOB_BYTES = Resource.BYTES, Resource.JOB_BYTES
MANY = 1000
FLOOD, LIGHT = "the-key-of-the-flood", "the-key-of-the-light-load"
KEYS = f"flood: {FLOOD}\nlight: {LIGHT}\n"


def two_accounts(share: float = 0.5, metrics: Counted | None = None) -> tuple[Account, Account]:
    """Return the accounts of two clients."""
    shares = Shares(share, lambda: 2, metrics or Counted())
    return shares.account("flood"), shares.account("light")


def reserves(gate: Admission, pictures: int, account: Account) -> bool:
    """Tell whether a request of so many pictures is taken."""
    with suppress(ShareExceeded), gate.reserve(pictures, account=account):
        return True
    return False


def fill(gate: Admission, stack: ExitStack, account: Account) -> tuple[int, Overloaded]:
    """Take places until one is refused; return how many there were, and the refusal."""
    for taken in range(MANY):
        try:
            stack.enter_context(gate.place(account=account))
        except Overloaded as exc:
            return taken, exc
    raise AssertionError(f"{MANY} pictures were taken")


def guard_of(folder: Path, text: str = KEYS, metrics: Counted | None = None, **bounds: float) -> Guard:
    path = folder / "keys"
    path.write_text(text)
    share = bounds.get("share", 0.5)
    keys = ApiKeys(KeySource(keys_file=str(path), share=share))
    return Guard(keys, metrics, lambda: int(bounds.get("max_requests", MANY)))


def test_a_client_fills_its_share_of_the_places_and_the_other_finds_the_rest() -> None:
    flood, light = two_accounts()
    gate = admission(max_queue=10, max_wait_s=60)
    with ExitStack() as taken:
        assert fill(gate, taken, flood)[0] == 5
        count, refusal = fill(gate, taken, light)
        assert (count, type(refusal)) == (5, Overloaded)  # the queue is full: no matter of shares
        _, refusal = fill(gate, taken, flood)
        assert type(refusal) is Overloaded


def test_a_client_fills_its_share_of_the_wait_which_ends_a_queue_before_its_places_do() -> None:
    flood, light = two_accounts()
    gate = admission(max_wait_s=0.95)  # ten pictures: the tenth has 0.9 s before it
    with ExitStack() as taken:
        count, refusal = fill(gate, taken, flood)
        assert (count, refusal.status, refusal.code) == (5, 429, "share_exceeded")
        assert refusal.retry_after_s == 1
        assert "API key flood has 5 pictures" in refusal.detail
        assert "5 of 10" in refusal.detail
        assert fill(gate, taken, light)[0] == 5


def test_retry_after_is_when_the_queue_of_now_is_worked_off() -> None:
    flood, _ = two_accounts()
    with ExitStack() as taken:
        count, refusal = fill(admission(max_wait_s=9.95), taken, flood)
    assert (count, refusal.retry_after_s) == (50, 5)


def test_who_fills_none_of_a_standing_queue_is_taken_while_the_flood_has_half_of_its_share() -> None:
    now_s = 100.0
    flood, light = two_accounts()
    gate = admission(lambda: now_s, max_wait_s=3.95)
    with ExitStack() as burst, ExitStack() as other:
        assert fill(gate, burst, flood)[0] == 20
        now_s += 2 * BURST_S
        other.enter_context(gate.place(account=light))  # 2 s of work before it, more than a standing queue may have
        with pytest.raises(ShareExceeded, match="10 of 20"):
            gate.check(account=flood)
    with ExitStack() as taken:
        assert fill(gate, taken, flood)[0] == 20


def test_a_flood_that_goes_on_has_no_more_than_half_of_its_share_after_a_while() -> None:
    flood, _ = two_accounts()
    waits_s = waits_in_a_flood(flood, ShareExceeded)
    assert max(waits_s[:200]) == pytest.approx(2.0, abs=PICTURE_S)
    assert [min(waits_s[300:]), max(waits_s[300:])] == pytest.approx([1.0, 1.0], abs=PICTURE_S)


def test_the_pictures_of_one_request_count_one_by_one() -> None:
    flood, light = two_accounts()
    gate = admission(max_queue=10, max_wait_s=60)
    with gate.reserve(3, account=flood) as reserved:
        with pytest.raises(ShareExceeded), gate.reserve(3, account=flood):
            pass
        with reserved.place(account=flood), gate.reserve(2, account=flood):
            pass
        gate.check(pictures=5, account=light)
    gate.check(pictures=5, account=flood)


def test_who_waits_for_anothers_picture_has_a_place_and_makes_no_work() -> None:
    flood, _ = two_accounts()
    gate = admission(max_queue=10, max_wait_s=0.35)  # work for four pictures, of which two are a share
    with ExitStack() as taken:
        taken.enter_context(gate.place(account=flood))
        for _ in range(4):
            taken.enter_context(gate.share(flood))
        with pytest.raises(ShareExceeded, match="5 places"), gate.share(flood):
            pass


def test_a_share_is_at_least_one() -> None:
    flood, _ = two_accounts(share=0.01)
    gate = admission(max_queue=10)
    with gate.place(account=flood), pytest.raises(ShareExceeded, match="1 of 10"):
        gate.check(account=flood)


def test_who_has_nothing_in_the_queue_may_take_all_of_it_but_one_picture() -> None:
    """A large request could never be answered otherwise; and no request is so large that the others find no place."""
    flood, light = two_accounts()
    gate = admission(max_wait_s=3.05)  # 31 pictures
    with flood.open_request(MANY), flood.open_request(MANY):
        assert not reserves(gate, 31, flood)
        with gate.reserve(30, account=flood):
            with pytest.raises(ShareExceeded, match="try again later"):
                gate.check(account=flood)
            with gate.place(account=light):
                pass
        with (
            gate.place(account=flood),
            pytest.raises(ShareExceeded, match="15 of 31; send it alone, or less at a time"),
        ):
            gate.check(pictures=16, account=flood)


def test_what_a_request_has_reserved_is_not_judged_again_when_its_pictures_are_equal() -> None:
    flood, _ = two_accounts()
    gate = admission(max_queue=10, max_wait_s=60)
    with flood.open_request(MANY), gate.reserve(9, account=flood) as reserved, ExitStack() as pictures_of_request:
        pictures_of_request.enter_context(flood.open_request(MANY))
        pictures_of_request.enter_context(reserved.place(account=flood))
        for _ in range(2):
            pictures_of_request.enter_context(reserved.share(flood))
        assert gate.wait_s == pytest.approx(0.7)
        assert not reserves(gate, 1, flood)
    assert flood.has_none(Resource.PLACES)
    assert flood.has_none(Resource.PICTURES)


def test_an_upload_that_began_alone_goes_on_beyond_the_share_and_leaves_one_largest_upload() -> None:
    flood, light = two_accounts()
    gate = admission(max_upload_bytes=1000, max_held_bytes=100_000)
    largest = 1000 + MULTIPART_OVERHEAD_BYTES
    first, second, other = (HeldUpload(gate.uploads, account) for account in (flood, flood, light))
    first.add(60_000)
    with pytest.raises(ShareExceeded, match="50,000 of 100,000; try again later"):
        second.add(1)
    first.add(10_000)
    pictures = first.beside()
    pictures.add(100_000 - 70_000 - largest)
    with pytest.raises(ShareExceeded, match="less at a time"):
        first.add(1)
    other.add(largest)


def test_one_largest_upload_is_within_a_share_where_there_is_no_memory_for_two() -> None:
    flood, _ = two_accounts(share=0.1)
    largest = 1000 + MULTIPART_OVERHEAD_BYTES
    gate = admission(max_upload_bytes=1000, max_held_bytes=largest)
    HeldUpload(gate.uploads, flood).add(largest)


async def test_requests_that_wait_for_jobs_are_shared(redis_server: RedisServer) -> None:
    flood, light = two_accounts()
    jobs = JobStore(redis_server.url, JobSettings(), PATIENT_JOBS)
    waiters = Waiters(jobs, Outage(), 4, HANG_S)
    with ExitStack() as waiting:
        for account in (flood, flood, light):
            waiting.enter_context(waiters._bell("job", account))
        with pytest.raises(ShareExceeded, match=r"2 requests that wait for jobs .* 2 of 4"):
            waiting.enter_context(waiters._bell("job", flood))
        waiting.enter_context(waiters._bell("job", light))
    assert flood.has_none(Resource.WAITERS)
    await waiters.close()
    await jobs.close()


@pytest.mark.parametrize(("share", "clients"), [(1.0, 2), (0.5, 1)])
def test_without_a_bound_or_a_second_client_everything_is_as_without_keys(share: float, clients: int) -> None:
    now_s = 100.0
    account = Shares(share, lambda: clients, Counted()).account("only")
    account.take(Resource.REQUESTS, MANY)
    gate = admission(lambda: now_s, max_wait_s=3.95)
    with ExitStack() as taken, account.open_request(MANY):
        count, refusal = fill(gate, taken, account)
        assert (count, refusal.status) == (40, 503)
        now_s += 2 * BURST_S
        assert "longer than 1.975 s" in fill(gate, taken, account)[1].detail


def test_bytes_in_memory_are_shared_over_all_uploads_of_a_client() -> None:
    flood, light = two_accounts()
    gate = admission(max_upload_bytes=1000, max_held_bytes=20_000)
    first, second, other = (HeldUpload(gate.uploads, account) for account in (flood, flood, light))
    first.add(9_000)
    with pytest.raises(ShareExceeded, match="10,000 of 20,000"):
        second.add(1_001)
    other.add(9_000)
    held_by_flight = first.hand_over()
    first.free()
    with pytest.raises(ShareExceeded):
        second.add(1_001)
    held_by_flight.free()
    second.add(10_000)
    with pytest.raises(Overloaded) as full:
        other.add(1_001)
    assert full.value.status == 503


def test_the_bytes_of_jobs_have_a_share_of_their_own() -> None:
    flood, _ = two_accounts()
    online, jobs = (UploadBudget(1000, 1, lambda _: Overloaded("full"), kind) for kind in (BYTES, JOB_BYTES))
    for budget, words in ((online, "500 bytes of uploads"), (jobs, "500 bytes of job uploads")):
        budget.hold(500, flood)
        with pytest.raises(ShareExceeded, match=words):
            budget.hold(1, flood)
    online.free(500, flood)
    online.hold(500, flood)


def test_open_requests_are_shared_and_counted_by_the_name_of_the_key() -> None:
    metrics = Counted()
    shares = Shares(0.5, lambda: 2, metrics)
    flood, light = shares.account("flood"), shares.account("light")
    with flood.open_request(4), flood.open_request(4), light.open_request(4):
        with pytest.raises(ShareExceeded, match="2 open requests") as refused, flood.open_request(4):
            pass
        assert refused.value.retry_after_s == 1
    with flood.open_request(4):
        pass
    assert metrics.of(API_KEY_REQUESTS) == {"flood": 3, "light": 1}
    assert metrics.of(API_KEY_REFUSALS) == {"flood": 1}


def test_a_key_that_is_added_while_the_service_runs_begins_to_bound_the_only_one(tmp_path: Path) -> None:
    guard = guard_of(tmp_path, f"flood: {FLOOD}")
    flood = guard.identify(httpx.Headers({"X-API-Key": FLOOD}))  # type: ignore[arg-type]
    assert flood.share == 1
    (tmp_path / "keys").write_text(KEYS)
    assert guard.identify(httpx.Headers({"X-API-Key": FLOOD})) is flood  # type: ignore[arg-type]
    assert flood.share == 0.5


def scope(path: str, key: str) -> dict[str, object]:
    return {"type": "http", "method": "POST", "path": path, "headers": [(b"x-api-key", key.encode())]}


def test_a_flood_is_refused_before_the_api_sees_it_and_who_has_no_key_is_told_nothing(tmp_path: Path) -> None:
    guard = guard_of(tmp_path, max_requests=10)
    gate = admission(max_queue=10, max_wait_s=60)
    enter = build_entry(gate, guard)
    flood = guard.identify(httpx.Headers({"X-API-Key": FLOOD}))  # type: ignore[arg-type]

    def refusal(path: str, key: str) -> type[ServiceError] | None:
        found = refusal_at(enter, scope(path, key))
        return None if found is None else type(found)

    with ExitStack() as opened:
        for _ in range(4):
            opened.enter_context(guard.open_request(flood))
        assert refusal("/model/predict", FLOOD) is None
        with ExitStack() as taken:
            fill(gate, taken, flood)
            assert refusal("/model/predict", FLOOD) is ShareExceeded
            assert refusal("/model/v2/models/resnet50/infer", FLOOD) is ShareExceeded
            assert refusal("/model/jobs", FLOOD) is None
            assert refusal("/model/predict", LIGHT) is None
            assert refusal("/model/predict", "no-key-of-this-service") is Unauthorized
            opened.enter_context(guard.open_request(flood))
            assert refusal("/model/jobs", FLOOD) is ShareExceeded
            assert refusal("/model/jobs", LIGHT) is None
            with ExitStack() as full:
                gate.metrics = Counted()
                while gate._taken < 10:
                    full.enter_context(gate.place())
                assert refusal("/model/predict", LIGHT) is Overloaded
                assert refusal("/model/predict", "no-key-of-this-service") is Unauthorized
                assert refusal("/model/static-offline-docs/predict", "no-key-of-this-service") is None
    with pytest.raises(Unauthorized):
        guard.identify(httpx.Headers({"X-API-Key": "no-key-of-this-service"}))  # type: ignore[arg-type]


def key(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


@pytest.mark.parametrize(("picture_s", "bound"), [(1, {"max_queue": 10}), (50, {"max_wait_s": 475})])
async def test_one_keys_flood_gets_429_and_every_request_of_the_other_key_is_served(
    classifier: Classifier, fitted: Fitted, tmp_path: Path, picture_s: int, bound: dict[str, float]
) -> None:
    """Ten pictures are the queue, ten times as many come with one key, and as many as are left with the other."""
    metrics = Counted()
    label, data = next(iter(fitted.pictures.items()))
    guard = guard_of(tmp_path, metrics=metrics)
    async with held(classifier, metrics, guard, picture_s=picture_s, **bound) as replica:

        def send(count: int, who: str) -> list[asyncio.Task[httpx.Response]]:
            posts = (replica.client.post("/predict", content=data, headers=key(who)) for _ in range(count))
            return [asyncio.create_task(post) for post in posts]

        flood = send(100, FLOOD)
        await until(lambda: metrics.of(API_KEY_REFUSALS)["flood"] == 95, "the refusals of the flood")
        light = send(5, LIGHT)
        await until(lambda: metrics.told(QUEUE_PICTURES)[-1] == 10, "the pictures of the other key")
        flood += send(1, FLOOD)
        await until(lambda: metrics.of(REFUSALS).total() == 1, "a refusal of the full service")
        replica.engine.release()
        of_flood, of_light = await asyncio.gather(*flood), await asyncio.gather(*light)
    assert Counter(answer.status_code for answer in of_light) == {200: 5}
    assert Counter(answer.status_code for answer in of_flood) == {200: 5, 429: 95, 503: 1}
    assert {answer.json()["prediction"] for answer in (*of_light, *of_flood) if answer.is_success} == {label}
    for answer in of_flood:
        if answer.status_code == 429:
            assert_error(answer, 429, "share_exceeded", "API key flood", "5 of 10", "try again later")
            assert answer.headers["Retry-After"] == str(5 * picture_s)
            assert FLOOD not in answer.text
    assert metrics.of(API_KEY_REQUESTS) == {"flood": 101, "light": 5}
    assert metrics.of(API_KEY_REFUSALS) == {"flood": 95}
    assert max(metrics.told(API_KEY_QUEUE_PICTURES, "flood")) == 5
    assert max(metrics.told(API_KEY_QUEUE_PICTURES, "light")) == 5
    assert metrics.told(API_KEY_QUEUE_PICTURES, "flood")[-1] == 0
    assert sum(metrics.told(BATCH_PICTURES)) == 10
    told = f"{metrics.counts} {metrics.values}"
    assert FLOOD not in told
    assert LIGHT not in told


async def test_what_ends_in_a_refusal_of_one_client_is_not_shared_with_another() -> None:
    """Both send the same picture at the same time; each has a computation of its own, with its own place."""
    flood, light = two_accounts()
    budget = admission().uploads
    begun, go_on, computed = Counter[str](), asyncio.Event(), Counter[str]()

    async def compute(upload: HeldUpload, _within_s: float) -> Classification:
        begun[upload.account.name] += 1
        await go_on.wait()
        if upload.account is flood:
            raise ShareExceeded("this client has its share")
        computed[upload.account.name] += 1
        return Classification([(7, 1.0)], "hash")

    cache = PredictionCache(MemoryPredictions(10, 60), "a model", Counted())
    asked = [
        asyncio.create_task(cache.find_or_compute("hash", HeldUpload(budget, account), HANG_S, compute, nullcontext))
        for account in (flood, flood, light, light)
    ]
    await until(lambda: begun.total() == 2, "both computations")
    go_on.set()
    ended = await asyncio.gather(*asked, return_exceptions=True)
    await cache.close()
    assert [type(each) for each in ended] == [ShareExceeded, ShareExceeded, Classification, Classification]
    assert (begun, computed) == ({"flood": 1, "light": 1}, {"light": 1})


async def test_a_client_that_leaves_keeps_the_claim_of_another_who_waits_for_the_same_picture(
    redis_server: RedisServer,
) -> None:
    budget, begun, go_on = admission().uploads, Counter[str](), asyncio.Event()

    async def compute(upload: HeldUpload, _within_s: float) -> Classification:
        begun[upload.account.name] += 1
        await go_on.wait()
        return Classification([(7, 1.0)], "hash")

    metrics = Counted()
    store = RedisPredictions(redis_server.url, ttl_s=60, timing=PATIENT, is_possible=lambda _: True, metrics=metrics)
    await store.open()
    cache = PredictionCache(store, "a model", metrics)
    leaves, stays = [
        asyncio.create_task(cache.find_or_compute("hash", HeldUpload(budget, account), HANG_S, compute, nullcontext))
        for account in two_accounts()
    ]
    await until(lambda: begun.total() == 2, "both computations")
    leaves.cancel()
    await until(lambda: len(cache._flights._by_key) == 1, "the end of the first computation")
    await until(lambda: [len(who) for who in store._claimed.values()] == [1], "the claim of the second one alone")
    go_on.set()
    assert (await stays).best == [(7, 1.0)]
    await cache.close()


async def test_slow_uploads_of_one_key_hold_its_share_of_the_open_requests_and_of_the_bytes(
    classifier: Classifier, tmp_path: Path
) -> None:
    metrics, go_on = Counted(), asyncio.Event()
    guard = guard_of(tmp_path, metrics=metrics, max_requests=6)
    limits = {"max_upload_bytes": 1_000_000, "max_held_bytes": 2_000_000}
    async with held(classifier, metrics, guard, **limits) as replica:

        async def begin(size: int) -> asyncio.Task[httpx.Response]:
            half_sent = asyncio.Event()
            body = in_two_parts(b"x" * size, half_sent, go_on)
            post = asyncio.create_task(replica.client.post("/predict", content=body, headers=key(FLOOD)))
            await half_sent.wait()
            return post

        uploads = [await begin(900_000), await begin(900_000)]
        large = await replica.client.post("/predict", content=b"x" * 200_000, headers=key(FLOOD))
        assert_error(large, 429, "share_exceeded", "bytes of uploads", "1,000,000 of 2,000,000")
        uploads.append(await begin(10))
        for path in ("/predict", "/v2/models/resnet50/infer"):
            late = await replica.client.post(path, content=b"x", headers=key(FLOOD))
            assert (late.status_code, late.headers["Retry-After"]) == (429, "1")
        assert list(late.json()) == ["error"]
        assert "3 of 6" in late.json()["error"]
        assert (await replica.client.get("/ready", headers=key(FLOOD))).status_code == 200
        other = await replica.client.post("/predict", content=b"x" * 200_000, headers=key(LIGHT))
        assert_error(other, 415, "unsupported_image")
        go_on.set()
        for upload in uploads:
            assert (await upload).status_code in (415, 429)


async def test_whatever_ends_a_request_gives_back_what_it_held(
    classifier: Classifier, fitted: Fitted, tmp_path: Path
) -> None:
    """Answered, refused, left, cancelled, too late, failed: `held` sees in the end whether anything is left."""
    guard, data = guard_of(tmp_path), next(iter(fitted.pictures.values()))
    message = message_class("ModelInferRequest")(**pictures(data, data)).SerializeToString()
    unhurried = {"max_wait_s": 60, "deadline_s": HANG_S, "cache": {"store": "memory"}}
    async with held(classifier, Counted(), guard, picture_s=0.001, **unhurried) as replica:
        calls = GrpcInference(Inference(replica.classifier), guard, UnderWay())
        call = asyncio.create_task(calls.answer("ModelInfer", message, Told([("x-api-key", FLOOD)])))
        await replica.engine.begun()
        sent = [
            asyncio.create_task(replica.client.post("/predict", content=data, headers={**key(who), **more}))
            for who in (FLOOD, LIGHT)
            for more in ({}, {"Cache-Control": "no-store"}, {"X-Deadline-Ms": "100"})
        ]
        assert [(await sent[late]).status_code for late in (2, 5)] == [504, 504]
        account = guard.identify(httpx.Headers(key(LIGHT)))  # type: ignore[arg-type]
        await until(lambda: account._held[Resource.PLACES] == 2, "the places of the other key")
        for left in (call, sent[0], sent[3]):
            left.cancel()
        replica.engine._infer = fail
        replica.engine.release()
        assert [(await sent[failed]).status_code for failed in (1, 4)] == [500, 500]


def fail(_: np.ndarray) -> Scores:
    raise RuntimeError("the engine of this test fails")


@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
@pytest.mark.parametrize("application", ["users", "model"])
async def test_bodies_of_who_has_its_share_wait_in_front_of_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, application: str, method: str
) -> None:
    """Inside, each would have one of the places that Serve gives; so also when all of them come at once."""
    guard = guard_of(tmp_path, max_requests=6)
    monkeypatch.setattr(GATE, "enter", guard.enter if application == "users" else build_entry(admission(), guard))
    api, go_on, inside = build_api("slow", ""), asyncio.Event(), Counter[str]()

    @api.api_route("/slow", methods=[method])
    async def slow(request: Request) -> int:
        return len(await request.body())

    guard.protect(api)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        inside[Headers(scope=scope)["x-api-key"]] += 1
        await api(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(RefusesAtOnce(serve)), base_url="http://test") as client:

        async def send(who: str, body: AsyncIterator[bytes] | bytes) -> int:
            return (await client.request(method, "/slow", content=body, headers={"X-API-Key": who})).status_code

        begun = [asyncio.Event() for _ in range(20)]
        flood = [asyncio.create_task(send(FLOOD, in_two_parts(b"xx", each, go_on))) for each in begun]
        for each in begun:
            await each.wait()
        assert inside == {FLOOD: 3}
        assert await send(LIGHT, b"x") == 200
        go_on.set()
        assert Counter(await asyncio.gather(*flood)) == {200: 3, 429: 17}
        assert await send(FLOOD, b"x") == 200
        assert await send("no-key-of-this-service", b"x") == 401
    assert inside == {FLOOD: 4, LIGHT: 1}


async def test_without_a_gate_a_refused_body_keeps_no_place_either(classifier: Classifier, tmp_path: Path) -> None:
    """Serve's own proxy has none: the answer comes at once, and nothing is read."""
    guard, endless = guard_of(tmp_path, max_requests=2), asyncio.Event()
    async with held(classifier, Counted(), guard) as replica:
        with guard.open_request(guard.identify(httpx.Headers(key(FLOOD)))):  # type: ignore[arg-type]
            for who, status in ((FLOOD, 429), ("no-key-of-this-service", 401)):
                body = in_two_parts(b"xx", asyncio.Event(), endless)
                async with asyncio.timeout(HANG_S / 3):
                    answer = await replica.client.post("/predict", content=body, headers=key(who))
                assert answer.status_code == status


def test_the_share_of_open_requests_follows_what_the_replica_works_on(tmp_path: Path) -> None:
    """Serve changes it while a replica runs."""
    most = [4]
    (tmp_path / "keys").write_text(KEYS)
    guard = Guard(ApiKeys(KeySource(keys_file=str(tmp_path / "keys"))), find_max_requests=lambda: most[0])
    flood = guard.identify(httpx.Headers(key(FLOOD)))  # type: ignore[arg-type]
    with guard.open_request(flood), guard.open_request(flood):
        with pytest.raises(ShareExceeded, match="2 of 4"), guard.open_request(flood):
            pass
        most[0] = 10
        with guard.open_request(flood):
            pass


async def test_the_api_page_says_429_of_every_operation_that_needs_a_key(
    classifier: Classifier, tmp_path: Path
) -> None:
    async with held(classifier, Counted(), guard_of(tmp_path)) as replica:
        paths = (await replica.client.get("/openapi.json")).json()["paths"]
    described = {path: item.get("post", item.get("get"))["responses"] for path, item in paths.items()}
    assert "share_exceeded" in described["/predict"]["429"]["description"]
    assert "429" not in described["/ready"]
    bodies = {path: described[path]["429"]["content"]["application/json"]["schema"]["$ref"] for path in ("/", "/v2")}
    assert [body.rpartition("/")[2] for body in bodies.values()] == ["ErrorBody", "InferenceError"]
