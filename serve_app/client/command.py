"""Runs the client: finds the items, calls the service, writes the outcomes and the summary."""

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from serve_app.client.answers import Answers, open_answers
from serve_app.client.contact import first_contact, first_patience, most_in_a_row, open_downloads, open_service
from serve_app.client.contents import Contents
from serve_app.client.errors import ItemError, UsageError
from serve_app.client.in_order import batches, run_in_order
from serve_app.client.items import Item, Skipped, find_items, url_items
from serve_app.client.jobs import Jobs
from serve_app.client.options import BATCH, Options, read_options
from serve_app.client.outcome import Outcome, Tally
from serve_app.client.plain_text import printable
from serve_app.client.predictions import Predictions
from serve_app.client.progress import Progress
from serve_app.client.resume import drop_unanswered, read_answered
from serve_app.client.service import JOB_ENDED, About, Service, Wishes
from serve_app.client.summary import sum_up, tell_skipped


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the client with `arguments` and return the exit code. Raises UsageError, RunStopped, KeyboardInterrupt."""
    options = read_options(arguments)
    key = options.key()
    if options.cancel:
        return asyncio.run(_cancel(options, key))
    asked = _find(options)
    if not asked.left and not options.job:
        return 0
    tally = Tally()
    progress = Progress(len(asked.left) if asked.left else None, bar=_leaves_the_terminal(options))
    try:
        asyncio.run(_Run(options, key, progress, tally).classify(asked))
    finally:
        if tally.classified or tally.failed:
            sum_up(tally, len(asked.left), progress, can_resume=options.output is not None and options.kind == "jsonl")
    return 1 if tally.failed else 0


@dataclass(frozen=True)
class _Asked:
    """The items that the options name, and the names of those that an earlier run has classified."""

    items: Sequence[Item]
    answered: frozenset[str] = frozenset()

    @cached_property
    def left(self) -> list[Item]:
        """Return the items to classify."""
        return [item for item in self.items if item.name not in self.answered]

    def batches(self, size: int) -> Iterator[list[Item]]:
        """Yield the items to classify, in the batches of the earlier run, whose open jobs are so found again."""
        for batch in batches(self.items, size):
            if left := [item for item in batch if item.name not in self.answered]:
                yield left


class _Run:
    """One run of the client, from the first contact to the last outcome."""

    def __init__(self, options: Options, key: str | None, progress: Progress, tally: Tally) -> None:
        self._options = options
        self._key = key
        self._progress = progress
        self._tally = tally

    async def classify(self, asked: _Asked) -> None:
        """Classify what is left, or fetch the jobs that the options name. Raises UsageError, RunStopped."""
        options, progress = self._options, self._progress
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(aclosing(_service(options, self._key, progress)))
            about = await first_contact(service, options, progress)
            if has_jobs := bool(options.jobs or options.job):
                await service.check_jobs(first_patience(options, progress))
            contents = Contents(await open_downloads(asked.left, options, progress, stack), about.max_upload_bytes)
            # Only now: a service that is down, or has no jobs, changes nothing in the file.
            answers = stack.enter_context(open_answers(options.kind, options.output, resume=options.resume))
            stack.enter_context(progress)  # ends before the answers: a table is printed after the bar is removed
            if has_jobs:
                await self._run_jobs(Jobs(service, contents, progress, _fingerprint(options, about)), asked, answers)
                return
            predictions = Predictions(service, contents, progress, most_in_a_row=most_in_a_row(options))
            await run_in_order(asked.batches(1), predictions.classify, options.parallel, self._emitting(answers))

    async def _run_jobs(self, jobs: Jobs, asked: _Asked, answers: Answers) -> None:
        options, emit = self._options, self._emitting(answers)
        try:
            if options.job:
                await run_in_order(options.job_ids, jobs.fetch, options.parallel, emit)
            else:
                await run_in_order(asked.batches(options.batch or BATCH), jobs.classify, options.parallel, emit)
        finally:
            if jobs.open_ids:
                self._tell_open(jobs.open_ids)

    def _emitting(self, answers: Answers) -> Callable[[Sequence[Outcome]], None]:
        def emit(outcomes: Sequence[Outcome]) -> None:
            for outcome in outcomes:
                answers.write(outcome)
                self._tally.count(outcome)

        return emit

    def _tell_open(self, open_ids: Sequence[str]) -> None:
        ids = list(dict.fromkeys(open_ids))
        again = f"{self._options.how_to_ask_again()} {' '.join(map(_option, ids))}"
        self._progress.say(
            f"the results of {len(ids)} job(s) are left in the service:\n"
            f"  {again}            waits for them and prints their results\n"
            f"  {again} --cancel   cancels them"
        )


def _option(job_id: str) -> str:
    """Return the option for a job as typed: an id of an earlier service may begin with a hyphen."""
    return f"--job={job_id}" if job_id.startswith("-") else f"--job {job_id}"


def _service(options: Options, key: str | None, progress: Progress) -> Service:
    return open_service(options, key, Wishes(options.top_k, options.deadline_ms, options.no_store), progress)


def _fingerprint(options: Options, about: About) -> dict[str, object]:
    return {"model": about.model, "top_k": options.top_k, "no_store": options.no_store}


async def _cancel(options: Options, key: str | None) -> int:
    progress = Progress(None, bar=False)
    code = 0
    async with aclosing(_service(options, key, progress)) as service:
        await service.check_jobs(first_patience(options, progress))
        for job_id in options.job_ids:
            try:
                await service.cancel(job_id)
                progress.say(f"job {job_id}: cancelled")
            except ItemError as exc:
                reason = (
                    "it has already ended; fetch its results without --cancel" if exc.code == JOB_ENDED else exc.detail
                )
                progress.say(f"job {job_id}: not cancelled: {printable(reason)}")
                code = 1
    return code


def _find(options: Options) -> _Asked:
    """Return what to classify, and print what is skipped. Raises UsageError."""
    if options.job:
        return _Asked([])
    skipped = Skipped()
    items = list(find_items(options.what, skipped))
    if options.urls:
        items += _listed(options.urls)
    tell_skipped(skipped)
    if not items:
        raise UsageError(f"{' '.join(options.what) or f'--urls {options.urls}'}: contains nothing to classify")
    if not (options.resume and options.output and options.output.exists()):
        return _Asked(items)
    asked = _Asked(items, frozenset(outcome.file for outcome in read_answered(options.output)))
    if not asked.left:
        drop_unanswered(options.output)
    known = len(items) - len(asked.left)
    print(f"{known:,} of {len(items):,} are already in {options.output}", file=sys.stderr)
    return asked


def _listed(urls: str) -> list[Item]:
    try:
        if urls == "-":
            return list(url_items(sys.stdin, urls))
        with Path(urls).open(encoding="utf-8") as lines:
            return list(url_items(lines, urls))
    except OSError as exc:
        raise UsageError(f"--urls {urls}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise UsageError(f"--urls {urls}: is not UTF-8 text with one URL per line") from exc


def _leaves_the_terminal(options: Options) -> bool:
    """Return whether the terminal shows nothing but the bar while it is there."""
    return options.output is not None or options.kind == "table" or not sys.stdout.isatty()
