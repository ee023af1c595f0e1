"""The prediction cache of the whole classifier: two replicas (without Ray) that share a real Redis.

They also share the one engine that the tests have loaded, each with a gate and a thread of its own before it.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from serve_app.cache.cache import PredictionCache
from serve_app.cache.classification import KEPT_CLASSES
from serve_app.cache.redis import RedisPredictions
from serve_app.cache.settings import CacheSettings
from serve_app.cache.store import MemoryPredictions, build_store
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.fingerprint import fingerprint_model
from serve_app.classifier.model_cache import Manifest, PreparedModel
from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import SetupError
from serve_app.metrics import CACHE_BREAKER_OPEN, CACHE_LOOKUPS, QUEUE_PICTURES, Metrics
from tests.conftest import Fitted
from tests.counted import Counted
from tests.gate import Gate
from tests.patience import HANG_S, HURRIED, PATIENT, set_timing, until
from tests.redis_server import RedisServer, running_redis
from tests.serve_app.classifier.test_images import encode, smooth
from tests.serve_app.classifier.test_model_api import assert_error, stages_ms
from tests.serve_app.test_uploads import busy

BEST = [(number, 0.1) for number in range(10)]


@dataclass(frozen=True)
class Replica:
    client: httpx.AsyncClient
    classifier: Classifier
    metrics: Counted
    gate: Gate

    async def predict(self, data: bytes, /, **headers: str) -> httpx.Response:
        """Post a picture; `headers` with underscores for hyphens."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(f"/predict?top_k={KEPT_CLASSES}", content=data, headers=given)

    def begin(self, data: bytes, /, **headers: str) -> "asyncio.Task[httpx.Response]":
        return asyncio.create_task(self.predict(data, **headers))

    @property
    def inferences(self) -> int:
        return self.metrics.pictures

    @property
    def sharing(self) -> int:
        """How many requests wait for another's picture."""
        return self.classifier.admission._sharing

    @property
    def store(self) -> RedisPredictions:
        assert self.classifier._cache is not None
        store = self.classifier._cache._store
        assert isinstance(store, RedisPredictions)
        return store


@asynccontextmanager
async def replica(loaded: Classifier, redis_url: str) -> AsyncIterator[Replica]:
    """Start a replica with the model and engine of `loaded`, which waits for Redis as long as it must."""
    from serve_app.classifier.api import build_model_api

    metrics, gate = Counted(), Gate(loaded._batcher._infer)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REDIS_URL", redis_url)
        patched.setattr("serve_app.cache.store.Timing", lambda **_options: PATIENT)
        args = {"max_wait_s": 10 * HANG_S, "deadline_s": 10 * HANG_S, "max_batch": 2}  # a short warm-up
        classifier = await Classifier.load(loaded.settings.model_copy(update=args), metrics, lambda *_: lambda: gate)
    transport = httpx.ASGITransport(build_model_api(classifier), root_path="/model", raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/model") as client:
        try:
            yield Replica(client, classifier, metrics, gate)
        finally:
            gate.release()
    await classifier.close()


@pytest.fixture(scope="module")
async def both(classifier: Classifier, module_redis: RedisServer) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two replicas at one Redis."""
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(replica(classifier, module_redis.url)) for _ in range(2)]
        yield one, other


@pytest.fixture(scope="module")
async def apart(
    classifier: Classifier, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Replica, RedisServer]]:
    """Another one, and its Redis, which tests leave as they have found it."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        async with replica(classifier, server.url) as started:
            yield started, server


@pytest.fixture
async def one(both: tuple[Replica, Replica], module_redis: RedisServer) -> Replica:
    """One of them, its Redis empty and its counts at zero; the other's too."""
    for each in both:  # what an earlier test has computed must not come into the empty Redis
        await nothing_more_is_written(each, module_redis)
    async with Redis.from_url(module_redis.url) as raw:
        await raw.flushall()
    for each in both:
        each.metrics.forget()
        each.gate.batches.clear()
    return both[0]


@pytest.fixture
def other(both: tuple[Replica, Replica]) -> Replica:
    return both[1]


@pytest.fixture
def data(fitted: Fitted) -> bytes:
    return fitted.pictures["thing 7"]


@asynccontextmanager
async def busy_engine(*replicas: Replica) -> AsyncIterator[None]:
    """Let all pictures that begin inside wait in their replica's queue until the end."""
    for each in replicas:
        each.gate.shut()
    yield
    for each in replicas:
        each.gate.release()


async def written(redis: RedisServer, data: bytes) -> None:
    """Return when the prediction of `data` is in Redis."""
    end = hashlib.sha256(data).hexdigest()

    async def is_there() -> bool:
        found = [json.loads(value) for key, value in (await kept(redis)).items() if key.endswith(end)]
        return found != [] and isinstance(found[0], list)

    await until(is_there, "the prediction in Redis")


async def kept(redis: RedisServer) -> dict[str, str]:
    """Return the predictions in Redis by key; claims are left out."""
    async with Redis.from_url(redis.url, decode_responses=True) as raw:
        values = {str(key): str(await raw.get(key)) for key in await raw.keys()}
    return {key: value for key, value in values.items() if not value.startswith("?")}


async def nothing_more_is_written(one: Replica, redis: RedisServer) -> None:
    """Return when all is in Redis that this replica had to write: what comes now is written last."""
    last = f"the last of {id(one)}"
    one.store.keep(last, [(0, 1.0)])

    async def is_there() -> bool:
        return any(key.endswith(last) for key in await kept(redis))

    await until(is_there, "the last to be written")


async def test_a_picture_seen_before_is_answered_without_decoding_it_by_any_replica(
    one: Replica, other: Replica, module_redis: RedisServer, data: bytes
) -> None:
    first = await one.predict(data)
    await written(module_redis, data)
    for again in (one, other):
        again.metrics.forget()
        second = await again.predict(data)
        assert second.json() == {**first.json(), "cached": True}
        spent_ms = stages_ms(second)
        assert list(spent_ms) == ["upload", "cache", "decode", "queue", "inference", "answer"]
        assert spent_ms["cache"] > 0 == spent_ms["decode"] == spent_ms["queue"] == spent_ms["inference"]
        assert again.metrics.stages == {"upload", "cache", "answer"}
        assert again.metrics.of(CACHE_LOOKUPS) == {"hit": 1}
        assert (again.metrics.pictures, again.metrics.told(QUEUE_PICTURES)) == (0, [])
    assert first.json()["cached"] is False
    assert stages_ms(first)["cache"] > 0


async def test_one_prediction_answers_every_top_k(one: Replica, module_redis: RedisServer, data: bytes) -> None:
    uncached = (await one.predict(data, cache_control="no-store")).json()
    await one.client.post("/predict?top_k=1", content=data)
    await written(module_redis, data)
    for top_k in (1, 5, KEPT_CLASSES):
        answer = (await one.client.post(f"/predict?top_k={top_k}", content=data)).json()
        assert answer["cached"] is True
        assert answer["predictions"] == uncached["predictions"][:top_k]
    assert one.inferences == 2


async def test_a_hundred_identical_pictures_at_once_are_one_inference(one: Replica, data: bytes) -> None:
    async with busy_engine(one):
        waiting = [one.begin(data) for _ in range(100)]
        await until(lambda: one.sharing == 99, "all who share")
    answers = [response.json() for response in await asyncio.gather(*waiting)]
    assert {answer["prediction"] for answer in answers} == {"thing 7"}
    assert sorted(answer["cached"] for answer in answers) == [False] + [True] * 99
    assert one.inferences == 1
    assert one.metrics.of(CACHE_LOOKUPS) == {"miss": 1, "shared": 99}
    assert max(one.metrics.told(QUEUE_PICTURES)) == 1


async def test_a_hundred_identical_pictures_at_two_replicas_are_one_inference(
    one: Replica, other: Replica, data: bytes
) -> None:
    async with busy_engine(one, other):
        waiting = [(one, other)[number % 2].begin(data) for number in range(100)]
        await until(lambda: one.sharing == other.sharing == 49, "all who share")
    answers = [response.json() for response in await asyncio.gather(*waiting)]
    assert {answer["prediction"] for answer in answers} == {"thing 7"}
    assert sum(not answer["cached"] for answer in answers) == 1
    assert one.inferences + other.inferences == 1


async def test_different_pictures_are_computed_each(one: Replica, fitted: Fitted) -> None:
    responses = await asyncio.gather(*(one.predict(picture) for picture in fitted.pictures.values()))
    assert [response.json()["prediction"] for response in responses] == list(fitted.pictures)
    assert one.metrics.of(CACHE_LOOKUPS) == {"miss": len(fitted.pictures)}


async def test_the_others_are_answered_when_the_first_to_ask_has_gone(one: Replica, data: bytes) -> None:
    async with busy_engine(one):
        first = one.begin(data)
        others = [one.begin(data) for _ in range(5)]
        await until(lambda: one.sharing == 5, "all who share")
        first.cancel()
        await asyncio.wait([first])
    for response in await asyncio.gather(*others):
        assert response.json()["prediction"] == "thing 7"
    assert one.inferences == 1


async def test_the_others_are_answered_when_the_first_to_ask_was_in_a_hurry(one: Replica, data: bytes) -> None:
    async with busy_engine(one):
        first, patient = one.begin(data, x_deadline_ms="5000"), one.begin(data)
        await until(lambda: one.sharing == 1, "the second who asks")
        assert_error(await first, 504, "deadline_exceeded")
        assert not patient.done()
    assert (await patient).json()["prediction"] == "thing 7"
    assert one.inferences == 1


async def test_a_picture_for_which_nobody_waits_any_more_never_reaches_the_engine_and_is_free_for_others(
    one: Replica, other: Replica, fitted: Fitted, data: bytes
) -> None:
    async with busy_engine(one):
        before = one.begin(fitted.pictures["thing 999"])
        await until(lambda: one.gate.batches, "another picture in the engine")
        waiting = [one.begin(data) for _ in range(3)]
        await until(lambda: one.sharing == 2 and len(one.classifier._batcher._waiting) == 1, "all who share")
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        async with asyncio.timeout(HANG_S / 2):  # a claim that is not given up would last longer
            assert (await other.predict(data)).json()["cached"] is False
    assert (await before).json()["prediction"] == "thing 999"
    assert (one.inferences, other.inferences) == (1, 1)


async def test_who_waits_for_another_needs_no_memory_for_the_upload(one: Replica) -> None:
    picture = encode(smooth(800, 800), "BMP")
    async with busy_engine(one):
        waiting = [one.begin(picture) for _ in range(10)]
        await until(lambda: one.sharing == 9, "all who share")
        assert one.classifier.admission.uploads._held_bytes <= len(picture)
    assert {response.status_code for response in await asyncio.gather(*waiting)} == {200}
    assert one.classifier.admission.uploads._held_bytes == one.sharing == 0


async def test_a_bad_picture_is_the_same_error_for_all_and_is_not_kept(
    one: Replica, module_redis: RedisServer, data: bytes
) -> None:
    bad = data[:2000]
    for _ in range(2):
        for response in await asyncio.gather(*(one.predict(bad) for _ in range(20))):
            assert_error(response, 400, "unreadable_image", "truncated")
    await nothing_more_is_written(one, module_redis)
    assert len(await kept(module_redis)) == 1
    assert one.metrics.of(CACHE_LOOKUPS) == {}
    assert one.classifier.admission.uploads._held_bytes == 0


async def test_no_store_neither_looks_nor_keeps(one: Replica, module_redis: RedisServer, data: bytes) -> None:
    for directives in ("no-store", "No-Store", "max-age=0, no-store", "no-cache,no-store"):
        response = await one.predict(data, cache_control=directives)
        assert response.json()["cached"] is False
    await nothing_more_is_written(one, module_redis)
    assert len(await kept(module_redis)) == 1
    await one.predict(data)
    await written(module_redis, data)
    assert (await one.predict(data, cache_control="no-store")).json()["cached"] is False
    assert one.metrics.of(CACHE_LOOKUPS) == {"skipped": 5, "miss": 1}
    assert one.inferences == 6


async def test_no_cache_computes_again_and_keeps_that(one: Replica, module_redis: RedisServer, data: bytes) -> None:
    assert (await one.predict(data, cache_control="no-cache")).json()["cached"] is False
    await written(module_redis, data)
    assert (await one.predict(data, cache_control="no-cache")).json()["cached"] is False
    assert (await one.predict(data, cache_control="max-age=60")).json()["cached"] is True
    assert one.inferences == 2


async def test_a_killed_replicas_picture_is_computed_by_another_soon(
    one: Replica, module_redis: RedisServer, data: bytes
) -> None:
    async with Redis.from_url(module_redis.url) as raw:
        await one.predict(data)
        await written(module_redis, data)
        [key] = await raw.keys()
        await raw.set(key, "?a replica that was killed", px=300)
        responses = await asyncio.gather(*(one.predict(data) for _ in range(10)))
        assert {response.json()["prediction"] for response in responses} == {"thing 7"}
    assert one.inferences == 2


async def test_an_upload_too_big_to_hash_at_once_is_found_again_while_all_threads_decode_others(
    one: Replica, module_redis: RedisServer
) -> None:
    picture = encode(smooth(800, 800), "BMP")
    first = await one.predict(picture)
    await written(module_redis, picture)
    with busy(one.classifier._pools.decode):
        async with asyncio.timeout(HANG_S / 2):  # the threads would be free again after HANG_S
            second = await one.predict(picture)
    assert second.json() == {**first.json(), "cached": True}
    assert second.json()["image_sha256"] == hashlib.sha256(picture).hexdigest()


@pytest.mark.parametrize("fault", ["freeze", "kill"])
async def test_predictions_go_on_while_redis_fails_and_use_it_again_afterwards(
    apart: tuple[Replica, RedisServer], fitted: Fitted, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    replica, server = apart
    lookups = count_lookups(replica.store, monkeypatch)
    set_timing(replica.store, HURRIED)
    getattr(server, fault)()
    pictures = list(fitted.pictures.items())
    while not replica.metrics.told(CACHE_BREAKER_OPEN)[-1]:
        label, picture = pictures[len(lookups) % len(pictures)]
        assert (await replica.predict(picture)).json()["prediction"] == label
    assert lookups
    lookups.clear()
    replica.classifier.check_ready()
    for label, picture in pictures[:4]:
        answer = (await replica.predict(picture)).json()
        assert (answer["prediction"], answer["cached"]) == (label, False)
    assert lookups == []  # they wait for Redis no more

    set_timing(replica.store, PATIENT)
    await asyncio.to_thread(server.thaw if fault == "freeze" else server.start)
    await until(lambda: not replica.metrics.told(CACHE_BREAKER_OPEN)[-1], "healing")
    await replica.predict(picture, cache_control="no-cache")
    await written(server, picture)
    assert (await replica.predict(picture)).json()["cached"] is True
    assert len(lookups) == 1


def count_lookups(store: RedisPredictions, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the keys that are asked Redis for from now on."""
    asked, send = [], store._send

    async def note(commands: Iterable[tuple[str | bytes | int, ...]], timeout_s: float) -> list[object]:
        given = list(commands)
        if given[-1][0] == "GETRANGE" and len(given) > 1:
            asked.append(str(given[-1][1]))
        return await send(given, timeout_s)

    monkeypatch.setattr(store, "_send", note)
    return asked


async def test_which_cache_is_on_is_told(one: Replica, model_client: httpx.AsyncClient) -> None:
    assert (await one.client.get("/")).json()["cache"] == "redis"
    assert (await model_client.get("/")).json()["cache"] == "off"


async def test_without_a_cache_equal_pictures_are_computed_each(model_client: httpx.AsyncClient, data: bytes) -> None:
    responses = [await model_client.post("/predict", content=data) for _ in range(2)]
    assert [response.json()["cached"] for response in responses] == [False, False]
    assert all(stages_ms(response)["inference"] > 0 for response in responses)


async def test_openapi_documents_the_cache(model_client: httpx.AsyncClient) -> None:
    document = (await model_client.get("/openapi.json")).json()
    parameters = document["paths"]["/predict"]["post"]["parameters"]
    [described] = [found["description"] for found in parameters if found["name"] == "Cache-Control"]
    assert "no-store" in described
    assert "no-cache" in described
    assert document["components"]["schemas"]["Prediction"]["properties"]["cached"]["type"] == "boolean"
    assert document["components"]["schemas"]["ModelInfo"]["properties"]["cache"]["enum"] == ["redis", "memory", "off"]


async def test_in_memory_the_least_used_make_room() -> None:
    store = MemoryPredictions(max_entries=3, ttl_s=10 * HANG_S)
    for key in "abc":
        store.keep(key, BEST)
    assert await store.find_or_claim("a") == BEST
    store.keep("d", BEST)
    assert [await store.find_or_claim(key) for key in "abcd"] == [BEST, None, BEST, BEST]


async def test_in_memory_all_expire() -> None:
    store = MemoryPredictions(max_entries=3, ttl_s=0.05)
    for key in "abc":
        store.keep(key, BEST)

    async def are_gone() -> bool:
        return [await store.find_or_claim(key) for key in "abc"] == [None] * 3

    await until(are_gone, "the end of all")


async def test_the_memory_of_one_replica_does_the_same_for_it_alone(
    one: Replica, other: Replica, monkeypatch: pytest.MonkeyPatch, fitted: Fitted, data: bytes
) -> None:
    for each in (one, other):
        cache = PredictionCache(MemoryPredictions(100, 10 * HANG_S), "a model", each.metrics)
        monkeypatch.setattr(each.classifier, "_cache", cache)
    assert one.classifier.cache_kind == "memory"
    assert [(await one.predict(data)).json()["cached"] for _ in range(3)] == [False, True, True]
    responses = await asyncio.gather(*(one.predict(fitted.pictures["thing 999"]) for _ in range(50)))
    assert sum(not response.json()["cached"] for response in responses) == 1
    assert (await other.predict(data)).json()["cached"] is False
    assert (one.inferences, other.inferences) == (2, 1)


def made_model(**manifest: object) -> PreparedModel:
    known = {"name": "resnet50", "weights": "w.h5", "weights_sha256": "a" * 64, "labels_from": "l", "labels": ["x"]}
    return PreparedModel(folder=Path("x"), manifest=Manifest.model_validate({**known, **manifest}), fingerprint="x")


def test_whatever_decides_the_scores_is_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ClassifierSettings()
    seen = [
        fingerprint_model(settings, made_model()),
        fingerprint_model(settings, made_model(weights_sha256="b" * 64)),
        fingerprint_model(settings, made_model(name="another")),
        fingerprint_model(settings, made_model(weights="imagenet", weights_sha256=None)),
        fingerprint_model(settings, made_model(weights="random", weights_sha256=None)),
        fingerprint_model(ClassifierSettings(seed=1), made_model(weights="random", weights_sha256=None)),
        fingerprint_model(ClassifierSettings(reduced_decoding=False), made_model()),
        fingerprint_model(ClassifierSettings(engine="openvino"), made_model()),
        fingerprint_model(ClassifierSettings(engine="openvino", precision="bfloat16"), made_model()),
    ]
    for name, value in (("DECODING", "2, Pillow 99"), ("RECIPE", 99)):
        with monkeypatch.context() as patched:
            patched.setattr(f"serve_app.classifier.fingerprint.{name}", value)
            seen.append(fingerprint_model(settings, made_model()))
    assert len(set(seen)) == len(seen)


def test_what_does_not_decide_the_scores_is_not_in_the_fingerprint() -> None:
    expected = fingerprint_model(ClassifierSettings(), made_model())
    for alike in (
        fingerprint_model(ClassifierSettings(), made_model(labels_from="other", labels=["y"])),
        fingerprint_model(ClassifierSettings(), made_model(weights="another name.h5")),
        fingerprint_model(ClassifierSettings(seed=7, threads=2, max_pixels=1000), made_model()),
    ):
        assert alike == expected


@pytest.mark.parametrize(
    ("cache", "url", "kind"),
    [
        ({}, "", "off"),
        ({}, "redis://127.0.0.1:1/0", "redis"),
        ({"store": "auto"}, "redis://127.0.0.1:1/0", "redis"),
        ({"store": "memory"}, "redis://127.0.0.1:1/0", "memory"),
        ({"store": "memory"}, "", "memory"),
        ({"store": "off"}, "redis://127.0.0.1:1/0", "off"),
    ],
)
async def test_redis_is_used_where_there_is_one_unless_the_config_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, cache: dict[str, str], url: str, kind: str
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    store = build_store(CacheSettings.model_validate(cache), 1000, Metrics())
    assert (store.kind if store else "off") == kind


def test_a_redis_that_is_asked_for_and_has_no_address_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(SetupError, match=r"cache.store: redis needs REDIS_URL"):
        build_store(CacheSettings(store="redis"), 1000, Metrics())
    monkeypatch.setenv("REDIS_URL", "http://127.0.0.1")
    with pytest.raises(SetupError, match="REDIS_URL: it must begin with"):
        build_store(CacheSettings(), 1000, Metrics())


@pytest.mark.parametrize(
    "cache", [{"stores": "redis"}, {"store": "disk"}, {"ttl_s": 0}, {"max_entries": 0}, {"timeout_s": 5}]
)
def test_a_cache_section_with_a_fault_is_refused_by_name(cache: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"cache.{next(iter(cache))}"):
        ClassifierSettings.model_validate({"cache": cache})
