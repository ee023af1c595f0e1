"""The jobs' HTTP API with a real Redis, through ASGI without Ray."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime

import httpx
import pytest

from serve_app.classifier.api import build_model_api
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.job_settings import FILE_BYTES
from serve_app.jobs.api import add_job_routes
from serve_app.jobs.queue.submit import make_id
from serve_app.metrics import JOBS_ENDED
from serve_app.redis.connection import connect
from serve_app.redis.keys import jobs_of
from tests.conftest import Fitted
from tests.gate import gate_before
from tests.jobs import Desk, replica
from tests.patience import HANG_S, PATIENT_JOBS, until
from tests.redis_server import RedisServer
from tests.serve_app.classifier.test_model_api import assert_error

FIELDS = [
    "id", "state", "position", "files", "files_done", "created_at", "started_at", "ended_at", "expires_at",
    "attempts", "error", "results",
]  # fmt: skip


@pytest.fixture(scope="module")
async def desk(classifier: Classifier, redis_server: RedisServer) -> AsyncIterator[Desk]:
    async with replica(classifier, redis_server.url) as opened:
        yield opened


async def test_a_job_comes_to_what_predict_says(desk: Desk, fitted: Fitted) -> None:
    data = fitted.pictures["thing 7"]
    response = await desk.submit(data, top_k=3)
    assert response.status_code == 202
    job = response.json()
    assert list(job) == FIELDS
    assert response.headers["location"] == f"/model/jobs/{job['id']}"
    assert "idempotent-replayed" not in response.headers
    ended = await desk.ended(job["id"])
    assert (ended["state"], ended["files"], ended["files_done"], ended["attempts"]) == ("done", 1, 1, 1)
    assert (ended["position"], ended["error"]) == (None, None)
    at = [datetime.fromisoformat(ended[f"{moment}_at"]) for moment in ("created", "started", "ended", "expires")]
    assert at == sorted(at)
    assert (at[3] - at[2]).total_seconds() == pytest.approx(3600, abs=1)
    [result] = ended["results"]
    assert (result["name"], result["index"], result["error"]) == ("0.jpg", 0, None)
    predicted = (await desk.http.post("/predict?top_k=3", content=data)).json()
    assert set(result["prediction"]) == set(predicted)
    assert result["prediction"]["prediction"] == "thing 7" == predicted["prediction"]
    assert len(result["prediction"]["predictions"]) == 3
    assert result["prediction"]["image_sha256"] == hashlib.sha256(data).hexdigest()


async def test_many_files_are_one_job_with_a_result_each_and_a_bad_one_fails_alone(desk: Desk, fitted: Fitted) -> None:
    labels = list(fitted.pictures)
    pictures = [*fitted.pictures.values()]
    pictures[2], pictures[5] = b"not a picture", b""
    ended = await desk.ended(await desk.accepted(*pictures))
    assert (ended["state"], ended["files_done"], ended["error"]) == ("done", 8, None)
    for index, (label, result) in enumerate(zip(labels, ended["results"], strict=True)):
        assert (result["index"], result["name"]) == (index, f"{index}.jpg")
        if index in (2, 5):
            assert result["prediction"] is None
            assert result["error"]["code"] == "unsupported_image"
            assert "JPEG, PNG" in result["error"]["detail"]
        else:
            assert result["prediction"]["prediction"] == label


async def test_a_job_of_which_no_file_is_a_picture_fails(desk: Desk, fitted: Fitted) -> None:
    before = desk.counted.of(JOBS_ENDED)["failed"]
    one = await desk.ended(await desk.accepted(fitted.pictures["thing 7"][:2000]))
    assert (one["state"], one["error"]) == ("failed", one["results"][0]["error"])
    assert one["error"]["code"] == "unreadable_image"
    two = await desk.ended(await desk.accepted(b"a", b"b"))
    assert (two["state"], two["error"]["code"]) == ("failed", "every_file_failed")
    assert [result["error"]["code"] for result in two["results"]] == ["unsupported_image"] * 2
    await until(lambda: desk.counted.of(JOBS_ENDED)["failed"] == before + 2, "the count of both")


async def test_what_waits_has_a_position_and_can_be_cancelled(
    classifier: Classifier, redis_server: RedisServer, fitted: Fitted
) -> None:
    data = fitted.pictures["thing 7"]
    with ExitStack() as busy:
        busy.enter_context(classifier.admission.place())  # a client waits: jobs do not begin
        async with replica(classifier, redis_server.url) as desk:
            jobs = [await desk.accepted(data) for _ in range(3)]
            assert [(await desk.look(job))["position"] for job in jobs] == [0, 1, 2]
            waiting = await desk.look(jobs[1])
            assert waiting["state"] == "queued"
            assert [waiting[name] for name in ("results", "started_at", "ended_at", "expires_at")] == [None] * 4
            response = await desk.http.delete(f"/jobs/{jobs[0]}")
            assert response.status_code == 200
            assert response.json()["state"] == "cancelled"
            assert [(await desk.look(job))["position"] for job in jobs] == [None, 0, 1]
            again = await desk.http.delete(f"/jobs/{jobs[0]}")
            assert (again.status_code, again.json()["state"]) == (200, "cancelled")
            assert (await desk.look(jobs[1]))["state"] == "queued"
            busy.close()
            assert {(await desk.ended(job))["state"] for job in jobs[1:]} == {"done"}
            await desk.counted_ends("cancelled", "done", "done")
            assert (await desk.look(jobs[0]))["state"] == "cancelled"
            assert_error(await desk.http.delete(f"/jobs/{jobs[1]}"), 409, "job_ended", "done")


async def test_a_running_job_can_be_cancelled_and_keeps_the_results_it_has(
    classifier: Classifier, desk: Desk, fitted: Fitted
) -> None:
    with gate_before(classifier) as gate:
        job = await desk.accepted(*[fitted.pictures["thing 7"]] * 30)

        async def has_results() -> bool:
            return bool((await desk.look(job))["files_done"])

        await until(has_results, "the first result")
        gate.shut()
        assert (await desk.look(job))["position"] is None
        cancelled = (await desk.http.delete(f"/jobs/{job}")).json()
        assert cancelled["state"] == "cancelled"
        await until(lambda: not desk.jobs._worker._running, "the worker to let go")
        gate.release()
        after = await desk.look(job)
        assert 0 < len(after["results"]) == after["files_done"] == cancelled["files_done"] < 30
        counts = await desk.jobs.store.counts()
        assert (counts.waiting, counts.running, counts.bytes) == (0, 0, 0)


async def test_the_same_key_and_content_lead_to_the_same_job(desk: Desk, fitted: Fitted) -> None:
    data, other = fitted.pictures["thing 7"], fitted.pictures["thing 433"]
    first = await desk.submit(data, key="order/7?!~")
    again = await desk.submit(data, key="order/7?!~")
    assert again.status_code == 202
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    for changed in (
        await desk.submit(other, key="order/7?!~"),
        await desk.submit(data, data, key="order/7?!~"),
        await desk.submit(data, top_k=1, key="order/7?!~"),
    ):
        assert_error(changed, 422, "idempotency_key_reused", "another job", "new key")
    assert (await desk.submit(data, key="another")).json()["id"] != first.json()["id"]
    stranger = await desk.http.post(
        "/jobs", files={"file": ("0.jpg", other)}, headers={"Idempotency-Key": "order/7?!~", "X-API-Key": "x" * 20}
    )
    assert stranger.status_code == 202


async def test_a_request_that_comes_twice_at_once_is_one_job(desk: Desk, fitted: Fitted) -> None:
    data = fitted.pictures["thing 7"]
    answers = await asyncio.gather(*(desk.submit(data, key="twice") for _ in range(8)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é"])
async def test_another_key_is_refused_by_name(desk: Desk, fitted: Fitted, key: str) -> None:
    response = await desk.http.post(
        "/jobs", content=fitted.pictures["thing 7"], headers=[(b"idempotency-key", key.encode())]
    )
    assert_error(response, 422, "invalid_parameter", "Idempotency-Key")


@pytest.mark.parametrize(
    ("path", "name"), [("/jobs?top_k=0", "top_k"), ("/jobs?top_k=11", "top_k"), ("/jobs?top_k=x", "top_k")]
)
async def test_another_parameter_is_refused_by_name(desk: Desk, fitted: Fitted, path: str, name: str) -> None:
    assert_error(await desk.http.post(path, content=fitted.pictures["thing 7"]), 422, "invalid_parameter", name)


@pytest.mark.parametrize("wait", ["-1", "15.1", "nan", "inf", "soon"])
async def test_another_wait_is_refused_by_name(desk: Desk, wait: str) -> None:
    assert_error(await desk.http.get(f"/jobs/{'x' * 22}?wait={wait}"), 422, "invalid_parameter", "wait")


@pytest.mark.parametrize("job", ["x" * 22, "nothing", "a%2Fb", "%00", "*"])
async def test_an_unknown_id_is_a_404(desk: Desk, job: str) -> None:
    assert_error(await desk.http.get(f"/jobs/{job}?wait=5"), 404, "not_found")
    assert_error(await desk.http.delete(f"/jobs/{job}"), 404, "not_found")


async def test_a_long_poll_is_answered_when_its_time_is_over_or_the_job_ends(
    classifier: Classifier, redis_server: RedisServer, fitted: Fitted
) -> None:
    data = fitted.pictures["thing 7"]
    with classifier.admission.place():
        async with replica(classifier, redis_server.url) as desk:
            job = await desk.accepted(data)
            began = time.monotonic()
            assert (await desk.http.get(f"/jobs/{job}?wait=0.2")).json()["state"] == "queued"
            assert time.monotonic() - began >= 0.2
            waiting = asyncio.create_task(desk.http.get(f"/jobs/{job}?wait=15"))
            await until(lambda: desk.jobs.waiters._waiting == 1, "one who waits")
            await desk.http.delete(f"/jobs/{job}")
            assert (await waiting).json()["state"] == "cancelled"


async def test_a_few_may_wait_for_a_job_and_hear_of_its_end_from_redis(
    classifier: Classifier, redis_server: RedisServer, fitted: Fitted
) -> None:
    """Nothing else wakes them here: their time is not over, and they do not ask again, for as long as this may take."""
    timing = replace(PATIENT_JOBS, recheck_s=10 * HANG_S)
    with ExitStack() as busy:
        busy.enter_context(classifier.admission.place())
        async with replica(classifier, redis_server.url, timing, max_waiters=3) as desk:
            for state in ("cancelled", "done"):
                job = await desk.accepted(fitted.pictures["thing 7"])
                waiting = [asyncio.create_task(desk.jobs.waiters.find(job, 10 * HANG_S)) for _ in range(3)]
                await until(lambda: desk.jobs.waiters._waiting == 3, "three who wait")
                refused = await desk.http.get(f"/jobs/{job}?wait=15")
                assert_error(refused, 503, "overloaded", "3 requests wait")
                assert refused.headers["retry-after"] == "1"
                assert (await desk.http.get(f"/jobs/{job}")).status_code == 200
                if state == "cancelled":
                    await desk.jobs.store.cancel(job)
                else:
                    busy.close()  # the client has gone: the job begins
                async with asyncio.timeout(HANG_S):
                    assert {(await found).state for found in waiting} == {state}


async def test_the_queue_is_bounded_in_jobs_and_bytes_and_says_when_to_come_back(
    classifier: Classifier, redis_server: RedisServer, fitted: Fitted
) -> None:
    data = fitted.pictures["thing 7"]
    with classifier.admission.place():
        async with replica(classifier, redis_server.url, max_waiting=2) as desk:
            first = await desk.submit(data, key="first")
            await desk.accepted(data)
            for refused in (await desk.submit(data), await desk.submit(data, key="third")):
                assert_error(refused, 503, "overloaded", "2 jobs are waiting", "try again later")
                assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert (await desk.submit(data, key="first")).json()["id"] == first.json()["id"]  # it has its place
            await desk.http.delete(f"/jobs/{first.json()['id']}")
            await desk.accepted(data)
        room = 3 * (len(data) + FILE_BYTES)
        bounds = {"max_files": 2, "max_job_bytes": 2 * len(data), "max_waiting_bytes": room}
        async with replica(classifier, redis_server.url, **bounds) as desk:
            job = await desk.accepted(data, data)
            refused = await desk.submit(data, data)
            assert_error(refused, 503, "overloaded", f"{2 * (len(data) + FILE_BYTES):,} bytes are waiting")
            await desk.accepted(data)
            await desk.http.delete(f"/jobs/{job}")
            await desk.accepted(data, data)


async def test_a_result_is_forgotten_when_it_has_expired(
    classifier: Classifier, redis_server: RedisServer, fitted: Fitted
) -> None:
    async with (
        replica(classifier, redis_server.url, result_ttl_s=600) as desk,
        connect(redis_server.url, HANG_S) as redis,
    ):
        response = await desk.submit(fitted.pictures["thing 7"], key="once")
        job = response.json()["id"]
        ended = await desk.ended(job)
        prefix = jobs_of(desk.settings.queue)
        keys = [key.decode() async for key in redis.scan_iter(f"{prefix}*")]
        expiring = {key for key in keys if await redis.pttl(key) >= 0}
        assert sorted(key.removeprefix(prefix).split(":")[0] for key in expiring) == ["job", "key", "results"]
        assert all([600 - HANG_S < await redis.ttl(key) <= 600 for key in expiring])
        for key in expiring:
            await redis.pexpire(key, 0)
        assert_error(await desk.http.get(f"/jobs/{job}"), 404, "not_found", "expired")
        assert (await desk.submit(fitted.pictures["thing 7"], key="once")).json()["id"] != ended["id"]


async def test_a_job_that_nobody_comes_to_fails_in_the_end(
    classifier: Classifier, redis_server: RedisServer, fitted: Fitted
) -> None:
    with classifier.admission.place():
        async with replica(classifier, redis_server.url, max_wait_s=0.1) as desk:
            job = await desk.accepted(fitted.pictures["thing 7"])
            ended = await desk.ended(job)
            assert (ended["state"], ended["error"]["code"]) == ("failed", "expired")
            assert "0.1 s" in ended["error"]["detail"]
            assert ended["results"] is None


async def test_without_redis_url_the_remedy_is_named(classifier: Classifier, fitted: Fitted) -> None:
    api = build_model_api(classifier)
    add_job_routes(api, classifier.settings, None)
    transport = httpx.ASGITransport(api, root_path="/model", raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/model") as http:
        for response in (
            await http.post("/jobs", content=fitted.pictures["thing 7"]),
            await http.get(f"/jobs/{'x' * 22}"),
            await http.delete(f"/jobs/{'x' * 22}"),
        ):
            assert_error(response, 503, "jobs_unavailable", "REDIS_URL")
            assert response.headers["retry-after"]


async def test_openapi_documents_every_route_and_error(desk: Desk) -> None:
    paths = (await desk.http.get("/openapi.json")).json()["paths"]
    submit, look, cancel = paths["/jobs"]["post"], paths["/jobs/{job}"]["get"], paths["/jobs/{job}"]["delete"]
    assert set(submit["requestBody"]["content"]) == {"multipart/form-data", "application/zip", "image/*"}
    assert set(submit["responses"]) == {"202", "400", "408", "413", "415", "422", "500", "503"}
    assert set(submit["responses"]["202"]["headers"]) == {"Location", "Idempotent-Replayed"}
    assert set(look["responses"]) == {"200", "404", "422", "500", "503"}
    assert set(cancel["responses"]) == {"200", "404", "409", "422", "500", "503"}


def test_no_id_of_a_job_looks_like_an_option_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["-2VtjkHmZ1PvGg8fFZKzAA", "uluibMd6vy96kLwpw3ESqQ"])
    monkeypatch.setattr(secrets, "token_urlsafe", lambda _: next(drawn))
    assert make_id() == "uluibMd6vy96kLwpw3ESqQ"
