"""What a replica learns of the engine that it shares, while a redeploy has two of them."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.classifier import shared_engine
from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.shared_engine import SharedEngine
from serve_app.deployments import engine
from serve_app.deployments.engine import EngineFacts, check_engine, facts_of
from serve_app.errors import NotReady, SetupError
from tests.serve_app.classifier.test_shared_engine import SHAPE, Echo, ask, listening

OLD = EngineFacts(ClassifierSettings(shared_engine=True), threads=1, gpu_share=0.0, device="cpu", has_tf32=False)
NEW = replace(OLD, settings=ClassifierSettings(shared_engine=True, max_batch=64), gpu_share=1.0, device="a GPU")


class Answers:
    """Deployments of which one or the other answers, in turn; the last one for ever."""

    def __init__(self, *facts: EngineFacts) -> None:
        self.left = list(facts)

    async def ask(self) -> EngineFacts:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


async def test_a_replica_takes_the_facts_of_the_engine_that_has_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_ASK_AGAIN_S", 0)
    assert await facts_of(NEW.settings, Answers(OLD, OLD, NEW).ask) == NEW
    assert await facts_of(OLD.settings, Answers(OLD, NEW).ask) == OLD
    with pytest.raises(SetupError, match=r"no replica of the deployment `Engine` has these settings after"):
        await facts_of(NEW.settings, Answers(OLD).ask, within_s=0)

    async def never() -> EngineFacts:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(SetupError, match=r"no replica of the deployment `Engine` has these settings after 0.01 s"):
        await facts_of(NEW.settings, never, within_s=0.01)


async def test_a_replica_whose_engine_is_gone_is_replaced_once_another_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when `num_gpus` alone changes: then Serve replaces the engine only."""
    monkeypatch.setattr(shared_engine, "LOST_WITHIN_S", 0)
    path = tmp_path / "engine"
    with listening(Echo(), path):
        shared = SharedEngine(path, SHAPE, within_s=1)
        assert ask(shared, 1) == [1]
    await check_engine(shared, OLD, Answers(NEW).ask)  # it may be that of a redeploy: the old one may still answer
    path.unlink()
    with pytest.raises(NotReady):
        ask(shared, 2)
    await check_engine(shared, OLD, Answers(OLD).ask)
    with pytest.raises(NotReady, match="the engine was replaced by another one"):
        await check_engine(shared, OLD, Answers(NEW).ask)

    async def none_is_there() -> EngineFacts:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(engine, "_ANSWERS_WITHIN_S", 0.01)
    await check_engine(shared, OLD, none_is_there)
