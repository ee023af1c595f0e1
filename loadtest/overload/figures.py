"""The figures of an overload test, computed from its raw rows, and which promises they keep."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from math import fsum
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from loadtest.errors import BadInputError
from loadtest.overload.question import (
    NEIGHBOUR_IN_FLIGHT,
    SETTLE_S,
    Asked,
    LevelRecord,
    OverloadFolder,
    Promises,
    Question,
)
from loadtest.plan.keys import Strict
from loadtest.plan.plan import Plan
from loadtest.rows.columns import GeneratorRow, RequestRow, ResourceRow, read_rows
from loadtest.rows.run_folder import Moments
from loadtest.statistics.percentiles import sure_percentile
from loadtest.verdict.validity import find_missing_answers, find_unsent

_NORMAL_RATIO = 2.0
"""Times the slowest request of the light load before: what is above it is not back to normal."""


Lost = Annotated[list[str], Field(exclude_if=lambda lost: not lost)]
"""Why there are requests that no figure counts."""


class LightFigures(Strict):
    """The light endpoint beside the overload."""

    idle_requests: int
    idle_p95_ms: float | None
    requests: int
    """Of the whole light load, before, during and after the overload, as failures are."""
    failures: int
    p95_ms: float | None
    """Of right answers to requests sent during the overload, as max_ms is."""
    max_ms: float | None
    lost: Lost = []


class LevelFigures(Strict):
    """One multiple of the capacity. Rates count what happened within the load; latencies count from the sending."""

    times: float
    window_s: float
    """The load, from when all its users were there."""
    asked_rps: float
    sent_rps: float
    goodput_rps: float
    """Right answers to heavy requests that were complete within the load, those of the light load included."""
    # Refusals and failures are those of all heavy requests, also of the light load before, during and after the load.
    refused: int
    """503 or 429; where the plan has errors checked, in the error shape with Retry-After."""
    refusal_p95_ms: float | None
    refusal_max_ms: float | None
    unanswered: int
    """No answer with a status: reset, closed or timed out."""
    other_failures: dict[str, int]
    """Whatever else was not right, by what the client says."""
    unsent: int
    """Arrivals that the generator never sent, since all its users were waiting."""
    lost: Lost = []
    median_ms: float | None
    p95_ms: float | None
    max_ms: float | None
    """Of right answers to heavy requests."""
    light: LightFigures
    recovered_after_s: float | None
    """After the load, until heavy requests of the light load are as quick as before it; None when they never were."""
    memory_begin_bytes: int
    memory_peak_bytes: int
    memory_end_bytes: int
    """Of the processes that the kit started for the target: as the load begins, at most, as it ends; shared pages count
    several times. 0 where it started none: then memory is not measured."""
    cpu_percent: dict[str, float]
    """By role, over the load; 100 is one core."""
    generator_lag_ms: float
    """The longest time by which the generator of the overload was late within a second, median over the seconds."""

    @property
    def has_memory(self) -> bool:
        """Return whether the target's memory is measured."""
        return self.memory_begin_bytes > 0


class Kept(Strict):
    """One promise at one level."""

    times: float
    promise: str
    measured: str
    kept: bool


class OverloadFigures(Strict):
    """What an overload test found."""

    title: str
    target: str
    question: Question
    capacity_rps: float
    levels: list[LevelFigures]
    promises: list[Kept]
    refusals_checked: bool
    """Whether the plan has errors checked, so that a refusal also has the error shape and Retry-After."""

    @property
    def all_kept(self) -> bool:
        """Return whether every promise was kept at every level."""
        return all(promise.kept for promise in self.promises)


def compute_overload(folder: OverloadFolder) -> OverloadFigures:
    """Return the figures of the test in the folder. Raises BadInputError when it holds none, or not all of it."""
    try:
        asked = Asked.model_validate_json(folder.plan.read_text(encoding="utf-8"))
        levels = [_level(asked, folder, times) for times in asked.question.times]
    except (OSError, ValueError) as exc:
        raise BadInputError(f"{folder.path}: holds no complete overload test: {exc}") from exc
    checked = asked.plan.workload.options.get("errors") == "checked"
    return OverloadFigures(
        title=asked.plan.title,
        target=asked.plan.targets[0].title,
        question=asked.question,
        capacity_rps=round(read_capacity_rps(asked.question, folder), 3),
        levels=levels,
        promises=list(judge(asked.question.promises, levels, refusals_checked=checked)),
        refusals_checked=checked,
    )


def read_capacity_rps(question: Question, folder: OverloadFolder) -> float:
    """Return the capacity: as it was given, or right answers per second of the saturated closed loop.

    Raises BadInputError when it is not measured yet.
    """
    if question.capacity_rps is not None:
        return question.capacity_rps
    path = folder.capacity / "requests.csv"
    try:
        moments = Moments.model_validate_json(folder.capacity_moments.read_text(encoding="utf-8"))
        answered = [row.ended_unix_s for row in read_rows(path, RequestRow) if not row.error]
    except (OSError, ValueError) as exc:
        raise BadInputError(f"{path}: the capacity is not measured yet: {exc}") from exc
    begin_s, end_s = moments.started_unix_s + SETTLE_S, moments.stopping_unix_s
    return sum(begin_s <= unix_s <= end_s for unix_s in answered) / (end_s - begin_s)


def lacks_capacity(question: Question, folder: OverloadFolder) -> bool:
    """Return whether the capacity is neither given nor known. One of 0 is not: no load can be a multiple of it.

    Raises BadInputError when the rows of a measured one cannot be read.
    """
    if question.capacity_rps is not None:
        return False
    return not folder.capacity_moments.is_file() or not read_capacity_rps(question, folder)


def judge(promises: Promises, levels: list[LevelFigures], *, refusals_checked: bool) -> Iterator[Kept]:
    """Yield each promise at each level; that of memory only where it is measured."""
    refused = "refused with Retry-After" if refusals_checked else "refused with 503 or 429"
    least = min(levels, key=lambda level: level.times)
    for level in levels:
        goodput = [_judge_goodput(promises, level, least)] if level is not least else []
        judged = (*goodput, *_judge_answers(promises, level, refused), *_judge_surroundings(promises, level))
        for promise, measured, kept in judged:
            yield Kept(times=level.times, promise=promise, measured=measured, kept=kept)


_Judged = tuple[str, str, bool]
"""A promise, what was measured, and whether it was kept."""


def _judge_goodput(promises: Promises, level: LevelFigures, least: LevelFigures) -> _Judged:
    share_percent = 100 * level.goodput_rps / least.goodput_rps if least.goodput_rps else 0.0
    promise = f"goodput at least {promises.goodput_percent:g} % of that at {least.times:g}x"
    return promise, f"{share_percent:.1f} %", share_percent >= promises.goodput_percent


def _judge_answers(promises: Promises, level: LevelFigures, refused: str) -> Iterator[_Judged]:
    right_rps, slowest_ms = level.goodput_rps, level.refusal_max_ms or 0.0
    measured = f"{right_rps:.1f}/s" if level.sent_rps else "no request was sent"
    yield "some requests are answered right", measured, right_rps > 0 and level.sent_rps > 0
    measured = f"slowest {slowest_ms:.0f} ms of {level.refused}" if level.refused else "no refusal"
    yield f"every refusal within {promises.refusal_ms:g} ms", measured, slowest_ms <= promises.refusal_ms
    others = [*level.other_failures.items(), ("no answer", level.unanswered), ("never sent", level.unsent)]
    measured = ", ".join([*(f"{count} × {what}" for what, count in others if count), *level.lost])
    yield f"every request is answered right, or {refused}", measured or "all were", not measured


def _judge_surroundings(promises: Promises, level: LevelFigures) -> Iterator[_Judged]:
    light, after_s, lost = level.light, level.recovered_after_s, "; ".join(level.light.lost)
    known = light.p95_ms is not None and light.idle_p95_ms is not None and not lost
    ratio = (light.p95_ms or 0.0) / (light.idle_p95_ms or 1.0)
    yield (
        f"p95 of the light endpoint at most {promises.neighbour_ratio:g} times its idle p95, no failures",
        f"{ratio:.2f} times, {light.failures} of {light.requests} failed" if known else lost or "too few requests",
        known and ratio <= promises.neighbour_ratio and not light.failures,
    )
    yield (
        f"normal latency within {promises.recovery_s:g} s after the load",
        lost or ("never" if after_s is None else f"{after_s:.1f} s"),
        after_s is not None and after_s <= promises.recovery_s and not lost,
    )
    if level.has_memory:
        growth_percent = 100 * (level.memory_peak_bytes / level.memory_begin_bytes - 1)
        promise = f"memory grows by at most {promises.memory_percent:g} %"
        yield promise, f"{growth_percent:.1f} %", growth_percent <= promises.memory_percent


def _level(asked: Asked, folder: OverloadFolder, times: float) -> LevelFigures:
    question, path = asked.question, folder.level(times)
    record = LevelRecord.model_validate_json(folder.level_record(times).read_text(encoding="utf-8"))
    began_s, ended_s = record.began_unix_s, record.moments.stopping_unix_s
    rows = list(read_rows(path / "requests.csv", RequestRow))
    beside = list(read_rows(folder.neighbour(times) / "requests.csv", RequestRow))
    heavy_beside = [row for row in beside if row.endpoint == question.heavy]
    heavy = [*rows, *heavy_beside]
    right = [row for row in rows if not row.error]
    right_ms = _latencies_ms(right)
    answered = [row.ended_unix_s for row in heavy if not row.error]
    length_s = ended_s - began_s
    refusals_ms = _latencies_ms(row for row in heavy if row.is_refusal)
    cpu_percent, memory = _read_roles(path / "resources.csv", _own_roles(asked.plan), began_s, ended_s)
    arrivals = record.moments.arrivals
    return LevelFigures(
        times=times,
        window_s=round(length_s, 3),
        asked_rps=round(record.asked_rps, 3),
        sent_rps=round(len(rows) / length_s, 3),
        goodput_rps=round(sum(began_s <= unix_s <= ended_s for unix_s in answered) / length_s, 3),
        refused=sum(row.is_refusal for row in heavy),
        refusal_p95_ms=_percentile_ms(refusals_ms, 0.95),
        refusal_max_ms=_max_ms(refusals_ms),
        unanswered=sum(row.status == 0 and bool(row.error) for row in heavy),
        other_failures=dict(Counter(row.error for row in heavy if row.error and row.status and not row.is_refusal)),
        unsent=arrivals.unsent if arrivals else 0,
        lost=find_missing_answers(record.moments.drained_s, asked.plan.drain_s),
        median_ms=_percentile_ms(right_ms, 0.5),
        p95_ms=_percentile_ms(right_ms, 0.95),
        max_ms=_max_ms(right_ms),
        light=_light([row for row in beside if row.endpoint == question.light], record, asked.plan.drain_s),
        recovered_after_s=_recovered_after_s(heavy_beside, record, ended_s),
        memory_begin_bytes=memory[0] if memory else 0,
        memory_peak_bytes=max(memory, default=0),
        memory_end_bytes=memory[-1] if memory else 0,
        cpu_percent=cpu_percent,
        generator_lag_ms=_lag_ms(path / "generator.csv"),
    )


def _light(rows: list[RequestRow], record: LevelRecord, drain_s: float) -> LightFigures:
    idle = [row for row in rows if record.idle_from_unix_s <= row.start_unix_s <= record.idle_to_unix_s]
    loaded = [row for row in rows if record.began_unix_s <= row.start_unix_s <= record.moments.stopping_unix_s]
    right_ms = _latencies_ms(row for row in loaded if not row.error)
    return LightFigures(
        idle_requests=len(idle),
        idle_p95_ms=_percentile_ms(_latencies_ms(row for row in idle if not row.error), 0.95),
        requests=len(rows),
        failures=sum(bool(row.error) for row in rows),
        p95_ms=_percentile_ms(right_ms, 0.95),
        max_ms=_max_ms(right_ms),
        lost=_lost(record.light_moments, drain_s),
    )


def _lost(moments: Moments | None, drain_s: float) -> list[str]:
    """Return why requests of a light load have no row; nothing is known where it has no moments."""
    if moments is None:
        return []
    return [*find_missing_answers(moments.drained_s, drain_s), *find_unsent(moments.arrivals, NEIGHBOUR_IN_FLIGHT)]


def _recovered_after_s(rows: list[RequestRow], record: LevelRecord, ended_s: float) -> float | None:
    """Return seconds from the load's end to the first heavy request that was normal, as all after it were.

    Normal is right and at most _NORMAL_RATIO times as slow as the slowest right one before the load.
    """
    idle = [row for row in rows if record.idle_from_unix_s <= row.start_unix_s <= record.idle_to_unix_s]
    most_ms = _NORMAL_RATIO * max((row.latency_ms for row in idle if row.is_timed and not row.error), default=0.0)
    after = sorted((row for row in rows if row.start_unix_s > ended_s), key=lambda row: row.start_unix_s)
    normal_from_s = None
    for row in after:
        if row.error or row.latency_ms > most_ms:
            normal_from_s = None
        elif normal_from_s is None:
            normal_from_s = row.start_unix_s
    return None if normal_from_s is None else round(normal_from_s - ended_s, 3)


def _own_roles(plan: Plan) -> set[str]:
    """Return the roles of the processes that the kit started; whether others are the target's, it does not know."""
    return {role.name for role in plan.roles if not role.anywhere} | {"target_other"}


def _read_roles(path: Path, roles: set[str], began_s: float, ended_s: float) -> tuple[dict[str, float], list[int]]:
    """Return the mean CPU by role, percent, and the memory of `roles` together, bytes, in each second that has one."""
    cpu: dict[str, list[float]] = defaultdict(list)
    memory: dict[float, int] = defaultdict(int)
    for row in read_rows(path, ResourceRow):
        if began_s <= row.unix_s <= ended_s:
            cpu[row.role].append(row.cpu_percent)
            if row.role in roles:
                memory[row.unix_s] += row.rss_bytes
    cpu_percent = {role: round(fsum(used) / len(used), 1) for role, used in sorted(cpu.items())}
    return cpu_percent, [memory[unix_s] for unix_s in sorted(memory)]


def _latencies_ms(rows: Iterable[RequestRow]) -> NDArray[np.float64]:
    return np.array([row.latency_ms for row in rows if row.is_timed], dtype=np.float64)


def _percentile_ms(latencies_ms: NDArray[np.float64], share: float) -> float | None:
    value_ms = sure_percentile(latencies_ms, share)
    return None if value_ms is None else round(value_ms, 3)


def _max_ms(latencies_ms: NDArray[np.float64]) -> float | None:
    return round(float(latencies_ms.max()), 3) if latencies_ms.size else None


def _lag_ms(path: Path) -> float:
    lags_ms = [row.lag_ms for row in read_rows(path, GeneratorRow)]
    return round(float(np.median(lags_ms)), 3) if lags_ms else 0.0
