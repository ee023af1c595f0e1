"""The end of a run on standard error: what was classified, what failed, what was skipped."""

import sys

from serve_app.client.items import Skipped
from serve_app.client.outcome import Tally
from serve_app.client.plain_text import examples, printable
from serve_app.client.progress import Progress


def tell_skipped(skipped: Skipped) -> None:
    """Print the files that are not sent, by reason."""
    for reason, count in skipped.counts.items():
        print(f"skipped, {reason}: {count:,} ({examples(skipped.examples[reason], count)})", file=sys.stderr)


def sum_up(tally: Tally, items: int, progress: Progress, *, can_resume: bool) -> None:
    """Print how many of `items` were classified, which failed, and how to go on."""
    failed = tally.failed.total()
    not_done = max(0, items - tally.classified - failed)
    parts = [f"{tally.classified:,} classified"]
    parts += [f"{failed:,} failed"] * bool(failed)
    parts += [f"{not_done:,} not done"] * bool(not_done)
    parts += [f"{tally.cached:,} from the cache"] * bool(tally.cached)
    parts += [f"{progress.retries:,} retries"] * bool(progress.retries)
    progress.say(f"{', '.join(parts)}; {progress.elapsed_s:.1f} s")
    for code, count in tally.failed.most_common():
        progress.say(f"  {printable(code)}: {count:,} ({examples(tally.examples[code], count)})")
    if not_done and can_resume:
        progress.say("the same command with --resume continues from here")
    if tally.random:
        progress.warn(f"{tally.random:,} predictions are meaningless: they come from RANDOM weights")
