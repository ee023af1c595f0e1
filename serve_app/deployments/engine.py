"""The deployment `Engine`: with `shared_engine`, the one engine for all classifier replicas of a machine.

No request reaches it through Serve: the replicas send it batches over a Unix socket beside Ray's own. It is a
deployment so that Serve starts it, watches it, and replaces it when it dies.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray._private import worker

from serve_app.classifier.engines import Engine
from serve_app.classifier.fingerprint import fingerprint_model
from serve_app.classifier.loading import LoadEngine, engine_threads, load_and_warm, load_own_engine
from serve_app.classifier.model_cache import PreparedModel, find_or_prepare
from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.shared_engine import EngineServer, Shape, SharedEngine
from serve_app.deployments.cores import usable_cores
from serve_app.deployments.logs import send_logs_to_serve
from serve_app.deployments.thread_budget import Classifier, Replicas, thread_budget_fault, threads_of
from serve_app.errors import NotReady, SetupError

logger = logging.getLogger(__name__)

STARTS_WITHIN_S = 600.0
"""How long replicas wait for the engine at the start: a GPU compiles for minutes."""
LEAVES_AFTER_S = 280.0
"""How long an engine that is replaced goes on at most for the replicas that still use it. Half of them at a time, they
start and then drain for 35 s. Serve gives it 300 s."""
_NAME_CHARACTERS = 12
_ASK_AGAIN_S = 0.5
_ANSWERS_WITHIN_S = 5


@dataclass(frozen=True)
class EngineFacts:
    """What the replicas need to know of the engine that they share."""

    settings: ClassifierSettings
    """Those of the config: a redeploy has two engines for a while."""
    threads: int
    gpu_share: float
    device: str
    has_tf32: bool


AskForFacts = Callable[[], Awaitable[EngineFacts]]
"""Waits for an engine that is there, and returns what it says."""


class EngineReplica:
    """Loads the engine that the settings name, and computes what the replicas send."""

    load_engine: LoadEngine = staticmethod(load_own_engine)

    def __init__(self, settings: ClassifierSettings) -> None:
        """Return once the engine is warm and its socket is there. Raises SetupError and OSError."""
        send_logs_to_serve()
        options = vars(serve.get_replica_context())["_deployment_config"]  # Serve tells it in no other way
        self._leaves_after_s = LEAVES_AFTER_S if options.max_surge_percent else 0.0
        given = settings
        settings = with_threads(settings, Replicas(1, 1))
        share = gpu_share_of_replica()
        prepared = find_or_prepare(settings, gpu_share=share)
        settings = prepared.settle(settings)
        threads = engine_threads(settings)
        load = threads.submit(self.load_engine, settings, prepared).result()  # at the threads' low priority
        warm = threads.submit(load_and_warm, load, settings.max_batch, prepared.manifest.geometry).result()
        self._facts = EngineFacts(
            settings=given,
            threads=settings.thread_count,
            gpu_share=share,
            device=warm.engine.device,
            has_tf32=warm.engine.has_tf32,
        )
        self._server = EngineServer(warm.engine, _shape(prepared), settings.max_batch)
        self._server.listen(_socket_path(settings, prepared), threads.submit)

    async def facts(self) -> EngineFacts:
        """Return what it computes on, once it is warm."""
        return self._facts

    async def check_health(self) -> None:
        """Raise if the engine hangs or fails again and again; Serve then replaces it."""
        self._server.check_ready()

    async def __del__(self) -> None:
        """Go on until the replicas that use this engine have ended, or have another one.

        Not where the next engine starts only after this one has ended: then they wait for it.
        """
        if (server := getattr(self, "_server", None)) is not None:
            await asyncio.to_thread(server.wait_until_unused, self._leaves_after_s)
            server.close()


async def facts_of(settings: ClassifierSettings, ask: AskForFacts, within_s: float = STARTS_WITHIN_S) -> EngineFacts:
    """Return the facts of the engine that has these settings: in a redeploy, one of before may answer.

    Raises SetupError when none has them for `within_s` seconds, or none answers.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while True:
                if (facts := await ask()).settings == settings:
                    return facts
                await asyncio.sleep(_ASK_AGAIN_S)
    raise SetupError(f"no replica of the deployment `Engine` has these settings after {within_s:g} s; its log says why")


async def check_engine(engine: Engine | None, known: EngineFacts, ask: AskForFacts) -> None:
    """Raise NotReady if the shared engine has gone and the one that is there is another: it answers elsewhere."""
    if isinstance(engine, SharedEngine) and engine.is_lost:
        with suppress(TimeoutError):  # none is there yet
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                if await ask() != known:
                    raise NotReady("the engine was replaced by another one; Serve will replace this replica")


def connect_to_engine(
    facts: EngineFacts, settings: ClassifierSettings, prepared: PreparedModel
) -> Callable[[], Engine]:
    """Return what finds the engine of this application on this machine. With `facts`, a LoadEngine for replicas."""
    path = _socket_path(settings, prepared)

    def connect() -> Engine:
        engine = SharedEngine(path, _shape(prepared), within_s=STARTS_WITHIN_S)
        engine.device, engine.has_tf32 = facts.device, facts.has_tf32
        return engine

    return connect


def gpu_share_of_replica() -> float:
    """Return how much of a GPU Ray has given to this replica."""
    context: Any = ray.get_runtime_context()
    return float(context.get_assigned_resources().get("GPU", 0))


def with_threads(settings: ClassifierSettings, replicas: Replicas) -> ClassifierSettings:
    """Return the settings with a number of threads; `replicas` of this application share the node.

    Logs a line if their engines have more threads than there are cores.
    """
    given: dict[str, float] = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
    cpus, cores = given.get("CPU", 0), usable_cores()
    threads = threads_of(settings.threads, num_cpus=cpus, replicas=replicas.most, cores=cores)
    name = serve.get_replica_context().app_name
    own = Classifier(name, threads, replicas, gpu_share=given.get("GPU", 0))
    # Cores that stay idle are the launcher's to tell: here nobody knows of other applications, which may use them.
    # Where Ray counts a CPU for each thread, it places no more replicas on a node than fit.
    if cpus < threads and own.most_threads > cores and (fault := thread_budget_fault([own], cores)):
        logger.warning(fault)
    return settings.model_copy(update={"threads": threads})


def _shape(prepared: PreparedModel) -> Shape:
    return Shape(prepared.manifest.geometry.crop, len(prepared.manifest.labels))


def _socket_path(settings: ClassifierSettings, prepared: PreparedModel) -> Path:
    """Return where the engine listens: apart for each application, and for each network that a redeploy brings."""
    parts = (serve.get_replica_context().app_name, fingerprint_model(settings, prepared), str(settings.max_batch))
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_NAME_CHARACTERS]
    node: Any = worker._global_node  # noqa: SLF001 Ray tells it in no other way
    return Path(node.get_sockets_dir_path()) / name
