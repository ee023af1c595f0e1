"""When a service has recovered from a fault, computed from rows; `page.py` has the definition."""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence

from loadtest.faults.process_watch import count_roles
from loadtest.rows.columns import ProcessRow, RequestRow
from loadtest.statistics.percentiles import percentile

WINDOW_S = 3
CALM_WINDOWS = 5
SLOW_FACTOR = 2.0
SLOW_EXTRA_MS = 50.0
SLOW_SHARE = 0.1
HUNG_MS = 1000.0
_P95 = 0.95


def usual_limits_ms(quiet: Iterable[RequestRow]) -> dict[str, float]:
    """Return the highest normal latency by endpoint, from the requests of a quiet period."""
    latencies: dict[str, list[float]] = defaultdict(list)
    for row in quiet:
        if not row.error:
            latencies[row.endpoint].append(row.latency_ms)
    return {
        endpoint: SLOW_FACTOR * (percentile(values, _P95) or 0) + SLOW_EXTRA_MS
        for endpoint, values in latencies.items()
    }


def is_disturbed(row: RequestRow, limits_ms: dict[str, float]) -> bool:
    """Return whether a request failed or exceeded the normal latency."""
    return bool(row.error) or row.latency_ms > limits_ms.get(row.endpoint, math.inf)


def calm_after_s(
    rows: Sequence[RequestRow], limits_ms: dict[str, float], began_unix_s: float, until_unix_s: float
) -> float | None:
    """Return after how many seconds requests are normal; None if never. `rows` are in the order of sending."""
    starts = [row.start_unix_s for row in rows]

    def is_calm(second: int) -> bool:
        begin = began_unix_s + second
        window = rows[bisect_left(starts, begin) : bisect_left(starts, begin + WINDOW_S)]
        return bool(window) and not _is_disturbed_window(window, limits_ms)

    last_second = math.floor(until_unix_s - began_unix_s - WINDOW_S)
    calm = [is_calm(second) for second in range(last_second + 1)]
    for second in range(len(calm) - CALM_WINDOWS + 1):
        if all(calm[second : second + CALM_WINDOWS]):
            sent_before = rows[: bisect_left(starts, began_unix_s + second)]
            ends = [row.ended_unix_s for row in sent_before if is_disturbed(row, limits_ms)]
            return max([second, *[end - began_unix_s for end in ends if end > began_unix_s]])
    return None


def _is_hung(row: RequestRow, limits_ms: dict[str, float]) -> bool:
    return row.latency_ms > limits_ms.get(row.endpoint, math.inf) + HUNG_MS


def _is_disturbed_window(window: Sequence[RequestRow], limits_ms: dict[str, float]) -> bool:
    requests: dict[str, list[RequestRow]] = defaultdict(list)
    for row in window:
        requests[row.endpoint].append(row)
    return any(row.error or _is_hung(row, limits_ms) for row in window) or any(
        sum(is_disturbed(row, limits_ms) for row in of_one) > max(1.0, SLOW_SHARE * len(of_one))
        for of_one in requests.values()
    )


def processes_back_after_s(
    rows: Sequence[ProcessRow], roles: Iterable[str], began_unix_s: float, until_unix_s: float
) -> float | None:
    """Return how long after the fault the roles have as many processes as before it, and keep them; None when never."""
    roles = list(roles)
    before = count_roles([*rows], began_unix_s)
    wanted = {role: before[role] for role in roles}
    counts, back_s = dict(wanted), 0.0
    for row in rows:
        if not began_unix_s < row.unix_s <= until_unix_s or row.role not in wanted:
            continue
        was_back = counts == wanted
        counts[row.role] += 1 if row.change == "came" else -1
        if counts == wanted and not was_back:
            back_s = row.unix_s - began_unix_s
    return back_s if counts == wanted else None
