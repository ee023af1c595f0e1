"""What limits a target at each number of users, in words and with the numbers that say so. Called by `summary`.

The order of the questions is that of Gregg's USE method (Brendan Gregg, "Thinking Methodically about Performance", ACM
Queue 10 (12), 2012): for each resource its utilisation and its saturation, the test's own resources first. What no
resource explains is looked for in the stages of the target's answers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from loadtest.figures.figures import (
    Bottleneck,
    CellFigures,
    LimitingFactor,
    PointFigures,
    RoleFigures,
    show_ms,
    show_percent,
    show_rps,
)
from loadtest.figures.level import FULL_PERCENT, Cores, CpuUse, Level
from loadtest.plan.plan import MOST_LATE_PERCENT
from loadtest.plan.targets import STOLEN, Target
from loadtest.plan.workload import Workload
from loadtest.verdict.validity import MOST_GENERATOR_CPU_PERCENT

LATE_GENERATOR_CPU_PERCENT = 50.0
"""Of a core: a generator that is late and uses less was held up by others, and its own work is not the limit."""

OVERSUBSCRIBED_FACTOR = 1.5
"""Busy threads ÷ cores that they may run on. One core more or less is a matter of the web server's own threads."""

STACKED_CORES_FACTOR = 0.75
"""Of the cores: threads that may run on fewer are held on those, by pinning or by a CPU quota of their own."""

OVERSUBSCRIBED_WAIT_PERCENT = 25.0
"""Of the time in which threads could run. Twice as many busy threads as cores wait half of it."""

LIGHT_LOAD_PERCENT = 95.0
"""Of N ÷ (Z + R0): from here on the users hardly wait for each other, so that more of them would send more."""

NEAR_FULL_PERCENT = 60.0
"""Of the most CPU that a role can use: below, it does not count as busy."""

LONG_STAGE_PERCENT = 50.0
"""Of the mean latency."""

LONG_QUEUE_PERCENT = 30.0
"""Of the mean latency."""

FLAT_GROWTH_SHARE = 0.1
"""Of the growth of the users: throughput that grows less has come to its limit."""

LEAST_TOLD_PERCENT = 1.0
"""Smaller shares are not mentioned."""

LEAST_MORE_USERS_FACTOR = 1.25
"""Between two levels, to judge whether throughput grows."""


@dataclass(frozen=True)
class _View:
    """A level beside those with fewer users."""

    level: Level
    lower: Sequence[Level]
    """By users."""
    is_target_known: bool
    """Whether the kit started the target, or saw a role that the plan has for replicas. Otherwise the target may be
    among the programs that the kit does not know, unless it runs elsewhere."""

    @property
    def idle_s(self) -> float:
        """Return R0, the mean latency when no request waits for another: the least that is known of it.

        With fewer users it was measured. One level alone has only the stages in which the service worked, if any.
        """
        if self.lower:
            return min(level.unqueued_s for level in [self.level, *self.lower])
        return self.level.worked_s

    @property
    def light_load_percent(self) -> float | None:
        return self.level.light_load_percent(self.idle_s)

    @property
    def is_lightly_loaded(self) -> bool:
        return (self.light_load_percent or 0.0) >= LIGHT_LOAD_PERCENT

    @property
    def is_flat(self) -> bool:
        """Return whether throughput no longer grows with the users."""
        if not self.lower or not self.lower[-1].rps:
            return False
        before = self.lower[-1]
        more_users = self.level.users / before.users
        more_rps = self.level.rps / before.rps
        return more_users >= LEAST_MORE_USERS_FACTOR and more_rps - 1 < FLAT_GROWTH_SHARE * (more_users - 1)


_Teller = Callable[[_View], Iterator[str]]


@dataclass(frozen=True)
class _Verdict:
    limit: LimitingFactor
    where: str | None
    sentence: str
    first: Sequence[_Teller]
    """The evidence that decided."""


def add_bottlenecks(
    workload: Workload,
    cores: Cores,
    points: Sequence[PointFigures],
    cells: Sequence[CellFigures],
    targets: Sequence[Target],
) -> tuple[list[PointFigures], list[CellFigures]]:
    """Return points and cells with what limits each, on a machine with those cores.

    INVALID cells get a verdict too: what limits them is often why they are not valid. They are compared with the
    points, which are of valid cells only.
    """
    started = {target.name for target in targets if target.start is not None}
    replicas = {target.replicas.role for target in targets if target.replicas is not None}

    def judged(figures: CellFigures | PointFigures) -> Bottleneck | None:
        same = [point for point in points if point.target == figures.target and point.users < figures.users]
        lower = [Level(point, workload, cores) for point in sorted(same, key=lambda point: point.users)]
        level = Level(figures, workload, cores)
        is_known = figures.target in started or any(level.role(role) for role in replicas)
        return find_bottleneck(level, lower, is_target_known=is_known)

    return (
        [point.model_copy(update={"bottleneck": judged(point)}) for point in points],
        [cell.model_copy(update={"bottleneck": judged(cell)}) for cell in cells],
    )


def find_bottleneck(level: Level, lower: Sequence[Level] = (), *, is_target_known: bool = True) -> Bottleneck | None:
    """Return what limits a level, given those of the same target with fewer users; None if nothing was answered."""
    if not level.has_latency or not level.rps:
        return None
    view = _View(level, [one for one in lower if one.has_latency], is_target_known)
    verdict = next(verdict for check in _CHECKS if (verdict := check(view)))
    told = [sentence for tell in (*verdict.first, *_EVIDENCE) for sentence in tell(view)]
    return Bottleneck(
        limit=verdict.limit,
        where=verdict.where,
        sentence=verdict.sentence,
        evidence=list(dict.fromkeys(told)),
        queue_percent=_rounded(level.queue_percent),
        unexplained_percent=_rounded(level.unexplained_percent),
    )


# Verdicts


def _load_generator(view: _View) -> _Verdict | None:
    level = view.level
    used_percent = 100 * level.generator_cpu_percent / level.core_percent
    late_percent = level.figures.generator_late_percent or 0.0
    is_late = late_percent > MOST_LATE_PERCENT and used_percent >= LATE_GENERATOR_CPU_PERCENT
    if used_percent < MOST_GENERATOR_CPU_PERCENT and not is_late:
        return None
    sentence = "The load generator: it has no time to send more. The target's own limit lies higher."
    return _Verdict("load_generator", "load_generator", sentence, [_tell_generator])


def _other_load(view: _View) -> _Verdict | None:
    level = view.level
    test_percent, others_percent = (
        level.target_cpu_percent + level.cpu_percent("load_generator"),
        level.others_cpu_percent,
    )
    stolen_percent = level.cpu_percent(STOLEN)
    if not level.is_machine_full or others_percent + stolen_percent <= test_percent:
        return None
    if not view.is_target_known and stolen_percent <= test_percent + others_percent:
        sentence = (
            "Not known: the machine is full, and programs that the kit did not start use "
            f"{show_percent(round(others_percent))} % CPU, the target among them if it runs here. Give the plan its "
            "`start`, or name its processes by a role with `anywhere: true`, so that the kit can tell them apart."
        )
        return _Verdict("unknown", None, sentence, [_tell_machine])
    sentence = (
        "Other load: the machine is full, and more of its CPU goes to what is no part of the test than to the target. "
        "Measure again when it is quiet."
    )
    return _Verdict("other_load", None, sentence, [_tell_machine])


def _oversubscription(view: _View) -> _Verdict | None:
    level = view.level
    crowds = [
        (threads / cores, role, threads, cores)
        for role in level.target_roles
        if (crowd := level.crowd_of(role)) and _wait_percent(role) >= OVERSUBSCRIBED_WAIT_PERCENT
        for threads, cores in [crowd]
    ]
    factor, role, threads, cores = max(crowds, key=lambda crowd: crowd[0], default=(0.0, None, 0.0, 0.0))
    if role is None or factor < OVERSUBSCRIBED_FACTOR:
        return None
    sentence = f"Thread oversubscription: role {role.role} has {threads:.1f} busy threads on {_cores(cores)}, "
    if cores < STACKED_CORES_FACTOR * level.cores:
        sentence += (
            f"the only ones of {level.cores:g} that they may run on, and they take turns while others are free. Let "
            "the system place them: no pinning in the processes, no affinity mask or CPU quota around them."
        )
    else:
        sentence += (
            "which take turns: more threads than cores do no more work. Try fewer in each process, or fewer processes."
        )
    return _Verdict("thread_oversubscription", role.role, sentence, [_tell_run_queue])


def _role_cpu(view: _View) -> _Verdict | None:
    level = view.level
    if (level.is_machine_full or level.is_share_full) and level.target_roles:
        role = max(level.target_roles, key=lambda role: role.cpu_percent)
        use = replace(level.cpu_use(role), of="cores")
    elif (busiest := level.busiest) and busiest.percent >= FULL_PERCENT and _is_full(view, busiest):
        use = busiest
    else:
        return None
    return _Verdict("role_cpu", use.role.role, f"The CPU of role {use.role.role}: {_how_full(level, use)}", _CPU_FIRST)


def _is_full(view: _View, use: CpuUse) -> bool:
    """Return whether a role has no CPU left: threads that take turns do only if requests wait for them."""
    return use.of != "lock" or not view.is_lightly_loaded


def _how_full(level: Level, use: CpuUse) -> str:
    role = use.role
    if use.of == "cores":
        return (
            f"all {_cores(level.cores)} are in use, {show_percent(round(role.cpu_percent))} of "
            f"{show_percent(100 * level.cores)} % by it. More needs less work for a request, or more cores."
        )
    held = level.crowd_of(role)
    if held and held[1] < STACKED_CORES_FACTOR * level.cores:
        more = f"Its busy threads may run on {_cores(held[1])} of {level.cores:g} only: let the system place them."
    elif level.cores > 1:
        more = "More processes of it can use the other cores."
    else:
        more = "More needs less work for a request."
    if use.of == "lock":
        each = "" if role.processes == 1 else " each"
        return (
            f"{role.processes} process(es) use one core{each} ({show_percent(round(role.cpu_percent))} %), as one "
            f"thread or several that take turns do, at Python's interpreter lock for example. {more}"
        )
    thread_percent = round(role.busiest_thread_percent or 0.0)
    return f"its busiest thread uses a whole core ({show_percent(thread_percent)} %) while others are free. {more}"


def _think_time(view: _View) -> _Verdict | None:
    level = view.level
    if not view.is_lightly_loaded or level.think_percent() < 50:  # noqa: PLR2004 # users think more than they wait
        return None
    busiest = level.busiest_without_lock
    used = f"{_tell_use(busiest)}; " if busiest else ""
    if busiest and busiest.percent < NEAR_FULL_PERCENT:
        used = f"nothing of the target is busy ({_tell_use(busiest)}); "
    sentence = f"The users' think time: {used}more users are needed to find the target's limit."
    return _Verdict("think_time", None, sentence, [_tell_light_load])


def _nearly_full_cpu(view: _View) -> _Verdict | None:
    busiest = view.level.busiest
    if busiest is None or busiest.percent < NEAR_FULL_PERCENT or view.is_lightly_loaded:
        return None
    sentence = f"The CPU of role {busiest.role.role} is nearest to its limit: {_tell_use(busiest)}."
    return _Verdict("role_cpu", busiest.role.role, sentence, _CPU_FIRST)


def _stage(view: _View) -> _Verdict | None:
    longest = view.level.longest_stage
    if longest is None or longest[1] < LONG_STAGE_PERCENT:
        return None
    name, percent = longest
    sentence = (
        f"The stage {name}: {show_percent(round(percent))} % of the mean latency pass in it, and "
        f"{_not_busy(view.level)}. What answers in that stage, such as a database, is the place to look."
    )
    return _Verdict("stage", name, sentence, [_tell_stages])


def _serial_section(view: _View) -> _Verdict | None:
    level = view.level
    queue_percent = level.queue_percent or 0.0
    if queue_percent >= LONG_QUEUE_PERCENT:
        seen = f"requests wait in a queue for {show_percent(round(queue_percent))} % of the mean latency"
    elif view.is_flat:
        seen = "more users bring no more throughput"
    else:
        return None
    sentence = (
        f"A lock or another serial section: {seen}, and {_not_busy(level)}. Requests pass one after the other, "
        "or few at a time."
    )
    return _Verdict("serial_section", None, sentence, [_tell_growth, _tell_stages])


def _few_users(view: _View) -> _Verdict | None:
    if not view.is_lightly_loaded or not view.lower:
        return None
    sentence = (
        f"The number of users: they wait for answers, not for each other, and {_not_busy(view.level)}; more users are "
        "needed to find the target's limit."
    )
    return _Verdict("think_time", None, sentence, [_tell_light_load])


def _unknown(view: _View) -> _Verdict:
    sentence = (
        f"Not known: {_not_busy(view.level)}, and no stage of the answers says where the time goes. Measure fewer "
        "users too, or have the service send Server-Timing."
    )
    return _Verdict("unknown", None, sentence, [])


_CHECKS: tuple[Callable[[_View], _Verdict | None], ...] = (
    _load_generator,
    _other_load,
    _oversubscription,
    _role_cpu,
    _think_time,
    _nearly_full_cpu,
    _stage,
    _serial_section,
    _few_users,
    _unknown,
)


# Evidence


def _tell_flow(view: _View) -> Iterator[str]:
    level = view.level
    yield (
        f"{level.users} users sent {show_rps(level.rps)} requests/s with a mean latency of "
        f"{show_ms(1000 * level.latency_s)} ms, so {level.under_way:.1f} requests were under way on average "
        "(Little's law, X R)."
    )


def _tell_light_load(view: _View) -> Iterator[str]:
    level, most_rps, percent = view.level, view.level.light_load_rps(view.idle_s), view.light_load_percent
    if most_rps is None or percent is None or percent < LEAST_TOLD_PERCENT:
        return
    pace = f"{level.workload.mean_wait_s:g} s of think time" if level.workload.mean_wait_s is not None else "their pace"
    answer = f"{show_ms(1000 * view.idle_s)} ms for an answer that waits for no other" if view.idle_s else "no waiting"
    yield (
        f"With {pace} and {answer}, they could send "
        f"{show_rps(most_rps)} requests/s (N ÷ (Z + R0)); their latency lets them send "
        f"{show_percent(round(percent))} % of that (interactive response time law)."
    )


def _tell_busiest(view: _View) -> Iterator[str]:
    for role in _by_cpu(view.level):
        yield _tell_role(view.level, role)


def _tell_role(level: Level, role: RoleFigures) -> str:
    told = f"Role {role.role}: {show_percent(role.cpu_percent)} % CPU in {role.processes} process(es)"
    if role.busy_threads is not None and role.busiest_thread_percent is not None:
        told += (
            f", {role.busy_threads:.1f} busy threads, the busiest with {show_percent(role.busiest_thread_percent)} % "
        )
        told += "of a core"
    demand_s = role.cpu_percent / 100 / level.rps
    most_rps = level.cores * level.core_percent / 100 / demand_s if demand_s else None
    if most_rps is None:
        return f"{told}."
    return (
        f"{told}; {show_ms(1000 * demand_s)} ms of CPU for a request (utilisation law, U ÷ X), with which "
        f"{_cores(level.cores)} alone would do {show_rps(most_rps)} requests/s."
    )


def _tell_run_queue(view: _View) -> Iterator[str]:
    for role in _by_cpu(view.level):
        if role.runqueue_wait_percent is not None and role.busy_threads:
            yield (
                f"Threads of role {role.role} waited for a core for {show_percent(round(_wait_percent(role)))} % of "
                f"the time in which they could have run; {role.busy_threads:.1f} of them were busy, "
                f"{_tell_crowd(view.level, role)}."
            )


def _tell_crowd(level: Level, role: RoleFigures) -> str:
    machine = f"the machine has {_cores(level.machine.machine)}"
    if level.cores < level.machine.machine:
        machine += f", of which {level.cores:g} may be used"
    crowd = level.crowd_of(role)
    if crowd is None or crowd[1] >= STACKED_CORES_FACTOR * level.cores:
        return machine
    threads, cores = crowd
    return f"{threads:.1f} of them may run on {_cores(cores)} only; {machine}"


def _tell_machine(view: _View) -> Iterator[str]:
    level = view.level
    if level.role("machine"):
        target = f"the target {show_percent(round(level.target_cpu_percent, 1))} %, "
        others = "programs that are no part of the test"
        if not view.is_target_known:
            target = target if level.target_roles else ""
            others = "other programs (the target among them if it runs here)"
        yield (
            f"The machine used {show_percent(level.cpu_percent('machine'))} of "
            f"{show_percent(100 * level.machine.machine)} % "
            f"CPU: {target}the load generator "
            f"{show_percent(level.cpu_percent('load_generator'))} %, {others} "
            f"{show_percent(round(level.others_cpu_percent, 1))} %; its host took "
            f"{show_percent(level.cpu_percent(STOLEN))} %."
        )


def _tell_stages(view: _View) -> Iterator[str]:
    level, stages = view.level, view.level.stages_percent
    if not stages:
        yield "The answers carry no Server-Timing, so where their time goes is not known."
        return
    shares = sorted(stages.items(), key=lambda stage: -stage[1])
    told = [f"{name} {show_percent(round(part))} %" for name, part in shares if part >= LEAST_TOLD_PERCENT]
    unexplained_percent = round(level.unexplained_percent or 0.0)
    rest = f"{show_percent(unexplained_percent)} % in no stage of the target"
    yield f"Of the mean latency: {'; '.join([', '.join(told), rest] if told else [rest])}."


def _tell_growth(view: _View) -> Iterator[str]:
    if view.lower and view.lower[-1].rps:
        before = view.lower[-1]
        yield (
            f"From {before.users} to {view.level.users} users throughput went from {show_rps(before.rps)} to "
            f"{show_rps(view.level.rps)} requests/s."
        )


def _tell_generator(view: _View) -> Iterator[str]:
    level = view.level
    if level.role("load_generator"):
        late_percent = round(level.figures.generator_late_percent or 0.0, 1)
        several = level.figures.generators
        who = f"The busiest of {len(several)} load generators" if several else "The load generator"
        whose = "the event loop of the latest" if several else "its event loop"
        yield (
            f"{who} used {show_percent(level.generator_cpu_percent)} % of one core, and {whose} "
            f"was late for {show_percent(late_percent)} % of the time."
        )


_CPU_FIRST: Sequence[_Teller] = (_tell_busiest, _tell_machine)
_EVIDENCE: Sequence[_Teller] = (
    _tell_flow,
    _tell_light_load,
    _tell_growth,
    _tell_busiest,
    _tell_run_queue,
    _tell_machine,
    _tell_stages,
    _tell_generator,
)


def _by_cpu(level: Level) -> list[RoleFigures]:
    """Return the role that is nearest to its limit, and the one with the most CPU if that is another."""
    if level.busiest is None:
        return []
    most = max(level.target_roles, key=lambda role: role.cpu_percent)
    return [level.busiest.role] if level.busiest.role is most else [level.busiest.role, most]


def _not_busy(level: Level) -> str:
    busiest = level.busiest
    return f"no role of the target is short of CPU ({_tell_use(busiest)})" if busiest else "its CPU was not seen"


def _tell_use(use: CpuUse) -> str:
    of = {"cores": "all cores", "thread": "a core by one thread", "lock": "a core for each process"}[use.of]
    return f"role {use.role.role} uses {show_percent(round(use.percent))} % of {of}"


def _wait_percent(role: RoleFigures) -> float:
    """Return for how much of the time in which a role's threads could run they waited for a core."""
    waited_percent = role.runqueue_wait_percent or 0.0
    could_run_percent = role.cpu_percent + waited_percent
    return 100 * waited_percent / could_run_percent if could_run_percent else 0.0


def _cores(cores: float) -> str:
    return "1 core" if cores == 1 else f"{round(cores, 1):g} cores"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
