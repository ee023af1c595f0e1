"""What was tested on what: the tables above the results. Called by `text`."""

from collections.abc import Iterator, Mapping
from typing import Any

from loadtest.figures.caching import DISTINCT, OFF
from loadtest.figures.figures import NO_FIGURE, Figures, show_bytes, show_percent
from loadtest.page.markdown import make_aligned_table
from loadtest.page.tables import Part, show_with_unit

PICTURES = {
    "distinct": "Every picture is a different file, so no cache of answers can help.",
    "repeated": "The same picture files are sent again and again, so a cache may answer.",
}
"""What the workload's option `pictures` means to a reader."""


def make_system(machine: Mapping[str, Any]) -> str:
    """Return the table of a machine and of what is installed on it; nothing where nothing is known."""
    names = {
        "cpu_model": "CPU",
        "cpu": "CPU",
        "cores": "cores",
        "usable_cores": "cores that the test may use",
        "ram_bytes": "memory",
        "os": "operating system",
        "python": "Python",
        "tool": "tool",
    }
    if machine.get("usable_cores") == machine.get("cores"):
        machine = {**machine, "usable_cores": None}
    rows = [
        [title, show_bytes(machine[key]) if key == "ram_bytes" else str(machine[key])]
        for key, title in names.items()
        if machine.get(key) is not None
    ]
    rows += [[name, version or "not installed"] for name, version in (machine.get("packages") or {}).items()]
    if machine.get("git_commit"):
        changed = ", with changed files" if machine.get("git_changed") else ""
        rows.append(["git commit", f"{machine['git_commit']}{changed}"])
    return make_aligned_table(["what", "value"], rows)


def make_test(figures: Figures) -> str:
    """Return the table of the plan's settings, without those that it does not have."""
    return make_aligned_table(["what", "value"], [[name, value] for name, value in _test_rows(figures) if value])


def _test_rows(figures: Figures) -> Iterator[tuple[str, str]]:
    test, workload = figures.test, figures.test.get("workload") or {}
    yield "targets", ", ".join(facts.title for facts in figures.targets)
    for name, start in (test.get("start") or {}).items():
        yield f"started by ({name})", f"`{start.replace('{python}', 'python')}`" if start else "ran already"
    for name, urls in (test.get("urls") or {}).items():
        yield f"ingresses ({name})", ", ".join(f"`{url}`" for url in urls)
    yield "users", ", ".join(str(users) for users in test.get("users") or [])
    yield "spawn rate", show_with_unit(test.get("spawn_rate_per_s"), "users per second")
    yield "duration of a cell", show_with_unit(test.get("duration_s"), "s, ramp included")
    yield "steady window begins", show_with_unit(test.get("settle_s"), "s after the last user has come")
    yield "wait for answers due", show_with_unit(test.get("drain_s"), "s at most, after the load")
    yield "other work allowed", show_with_unit(test.get("most_other_cpu_percent"), "% of one core at most")
    yield (
        "stolen CPU allowed",
        show_with_unit(test.get("most_stolen_cpu_percent"), "% of one core at most"),
    )
    yield "late generator allowed", show_with_unit(test.get("most_generator_late_percent"), "% of the time at most")
    yield "load generators", str(test.get("generators", {}).get("processes", ""))
    yield "think time", _think_time(workload)
    yield "arrivals", _arrivals(workload)
    yield "rate of a user", show_with_unit(workload.get("rate_per_user_rps"), "requests per second")
    yield "warm-up", _warm_up(test.get("warmup") or {})
    yield "repetitions", str(test.get("repetitions", ""))
    yield "seed", str(test.get("seed", ""))
    yield "workload", f"`{workload['locustfile']}`" if "locustfile" in workload else ""
    yield "its options", ", ".join(f"{name}: {value}" for name, value in read_options(figures).items())


def _think_time(workload: Mapping[str, Any]) -> str:
    wait_s = workload.get("wait_s")
    return f"{wait_s[0]:g} to {wait_s[1]:g} s between two requests of a user, uniform" if wait_s else ""


def _arrivals(workload: Mapping[str, Any]) -> str:
    if workload.get("rate_rps") is None:
        return ""
    how = "at random (Poisson)" if workload.get("arrivals") == "poisson" else "evenly"
    return f"open loop: {workload['rate_rps']:g} requests per second, {how}; at most as many under way as users"


def _warm_up(warmup: Mapping[str, Any]) -> str:
    if not warmup.get("duration_s"):
        return "none" if warmup else ""
    return f"{warmup['users']} users for {warmup['duration_s']:g} s, in no figure"


def make_endpoints(workload: Mapping[str, Any]) -> str:
    """Return the table of the workload's requests and their shares."""
    endpoints = workload.get("endpoints") or {}
    total = sum(endpoint["weight"] for endpoint in endpoints.values())
    rows = [
        [name, f"`{endpoint['request']}`", f"{show_percent(100 * endpoint['weight'] / total)} %"]
        for name, endpoint in endpoints.items()
    ]
    return make_aligned_table(["endpoint", "request", "share of the users' choices"], rows)


def read_options(figures: Figures) -> Mapping[str, Any]:
    """Return the options of the locustfile."""
    return (figures.test.get("workload") or {}).get("options") or {}


def with_random_weights(figures: Figures) -> str:
    """Return which targets say that their network has random weights."""
    return " and ".join(facts.title for facts in figures.targets if _has_random_weights(facts.about))


def _has_random_weights(about: object) -> bool:
    if isinstance(about, dict):
        return about.get("weights") == "random" or any(_has_random_weights(part) for part in about.values())
    return isinstance(about, list) and any(_has_random_weights(part) for part in about)


def tell_caches(figures: Figures) -> Iterator[Part]:
    """Yield, for each target whose cache was on, what it is called and what that makes of the figures."""
    for facts in figures.targets:
        if facts.cache in (None, OFF):
            continue
        if facts.cached:
            meaning = "this plan measures it, and its latencies and throughput hold for pictures that were sent before."
        elif read_options(figures).get("pictures") == DISTINCT:
            meaning = "it had no answer, as every picture was another one; the time for looking is in the figures."
        else:
            meaning = "the figures may be those of the cache instead of the work; see the validity of the cells."
        shares = [
            f"{show_percent(round(cell.hit_percent, 1))} % at {cell.users} users"
            for cell in figures.cells
            if cell.target == facts.name and cell.hit_percent is not None
        ]
        told = f" Of the answers that it counted, from the cache: {', '.join(shares)}." if shares else ""
        yield Part(f"Prediction cache on ({facts.cache})", f"{facts.title}: {meaning}{told}")


def tell_evaluations(figures: Figures) -> Iterator[Part]:
    """Yield, for each evaluation that the plan names, the accuracy, or why it says nothing about the target."""
    for facts in figures.targets:
        for found in facts.evaluations:
            if found.is_of_target:
                top1 = _with_interval("top-1", found.top1_percent, found.top1_interval_percent)
                top5 = _with_interval("top-5", found.top5_percent, found.top5_interval_percent)
                of = f"{found.pictures:,} labelled pictures, evaluated on {found.date} ({found.file})"
                yield Part(f"Accuracy of {facts.title}", f"{found.model}: {top1}{top5 and ', '}{top5}; {of}.")
            elif found.is_of_target is None:
                why = "it tells no fingerprint of its model, so whether it serves this one is unknown."
                yield Part(f"Accuracy of {facts.title}", f"{found.file} is of {found.model}; {why}")
            else:
                why = "it served another model (another fingerprint), whose accuracy this does not say."
                yield Part(f"Accuracy of {facts.title}", f"{found.file} is of {found.model}; {why}")


def _with_interval(name: str, percent: float | None, interval: tuple[float, float] | None) -> str:
    if percent is None or interval is None:
        return ""
    return f"{name} {percent:.2f} % (95 % interval {interval[0]:.2f}–{interval[1]:.2f} %)"


def make_about(figures: Figures) -> str:
    """Return what each target says of itself, beside each other."""
    told: dict[tuple[str, str], dict[str, str]] = {}
    for facts in figures.targets:
        for path, answer in facts.about.items():
            for name, value in answer.items() if isinstance(answer, dict) else [("", answer)]:
                told.setdefault((path, name), {})[facts.name] = _plain(value)
    rows = [
        [f"`{path}`", name, *(values.get(facts.name, NO_FIGURE) for facts in figures.targets)]
        for (path, name), values in told.items()
    ]
    return make_aligned_table(["path", "key", *(facts.title for facts in figures.targets)], rows)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(part) for part in value)
    return NO_FIGURE if value is None else str(value)
