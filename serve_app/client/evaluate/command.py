"""Runs `evaluate`: finds the pictures and their classes, asks one service or two, prints the report."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

from serve_app.agreement import Pair, measure_agreement
from serve_app.client.answers import Answers, open_answers, standard_output
from serve_app.client.connection import Connection
from serve_app.client.contact import first_contact, first_patience, most_in_a_row, open_service
from serve_app.client.contents import Contents
from serve_app.client.errors import ItemError, RunStopped, UsageError
from serve_app.client.evaluate.accuracy import TOP, Verdict, measure_accuracy, read_best
from serve_app.client.evaluate.accuracy_report import report_accuracy
from serve_app.client.evaluate.agreement_report import report_agreement
from serve_app.client.evaluate.classes import Classes, match_classes, read_synsets
from serve_app.client.evaluate.labels import LabelledPictures, find_labelled
from serve_app.client.evaluate.options import EvaluateOptions, read_evaluate_options
from serve_app.client.evaluate.page import write_page
from serve_app.client.evaluate.report import (
    Gate,
    Report,
    Subject,
    print_report,
    print_values,
)
from serve_app.client.in_order import batches, run_in_order
from serve_app.client.items import Item, Skipped, find_items
from serve_app.client.options import MOST_TOP_K
from serve_app.client.outcome import Outcome, Tally
from serve_app.client.plain_text import printable, without_login
from serve_app.client.predictions import Predictions
from serve_app.client.progress import Progress
from serve_app.client.resume import read_answered
from serve_app.client.service import Wishes
from serve_app.client.summary import sum_up, tell_skipped

PLACEHOLDER = "placeholder"
"""What GET /model/ says of labels that are none."""


def run_evaluate(arguments: Sequence[str]) -> int:
    """Run `evaluate` and return the exit code. Raises UsageError, RunStopped, KeyboardInterrupt."""
    options = read_evaluate_options(arguments)
    pictures = _find_pictures(options)
    keys = [connection.key() for connection in (options, options.second) if connection]
    progress = Progress(len(pictures.items), bar=True)
    tally = Tally()
    evaluation = _Evaluation(options, pictures, progress, tally)
    try:
        asyncio.run(evaluation.ask(keys))
    finally:
        if tally.classified or tally.failed:
            sum_up(tally, evaluation.asked, progress, can_resume=options.output is not None)
    report, gate = evaluation.report()
    (print_values if options.format == "json" else print_report)(report, standard_output())
    if options.page:
        _write_page(report, pictures.items, options.page, progress)
    return 1 if tally.failed or (gate and not gate.is_met) else 0


def _find_pictures(options: EvaluateOptions) -> LabelledPictures:
    """Return what to ask about, and print what is skipped. Raises UsageError."""
    skipped = Skipped()
    if options.second is None:
        pictures = find_labelled(options.folder, options.labels, skipped)
    else:
        pictures = LabelledPictures(list(find_items([options.folder], skipped)), {}, "")
    tell_skipped(skipped)
    if not pictures.items:
        raise UsageError(f"{options.folder}: contains no picture")
    return pictures


def _write_page(report: Report, items: Sequence[Item], page: Path, progress: Progress) -> None:
    try:
        write_page(report, {item.name: item.source for item in items}, page)
    except OSError as exc:
        raise RunStopped(f"--page {page}: cannot be written: {exc.strerror}") from exc
    progress.say(f"page: {page}")


@dataclass
class _Evaluation:
    """One run, from the first contact to the report."""

    options: EvaluateOptions
    pictures: LabelledPictures
    progress: Progress
    tally: Tally
    asked: int = 0
    """Pictures that were not in --output already."""
    subjects: list[Subject] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)

    async def ask(self, keys: Sequence[str | None]) -> None:
        """Ask about all pictures. Raises UsageError, RunStopped."""
        options, progress = self.options, self.progress
        connections = [connection for connection in (options, options.second) if connection]
        async with AsyncExitStack() as stack:
            asking = [
                await self._open(connection, key, stack) for connection, key in zip(connections, keys, strict=True)
            ]
            judge = self._judging_pairs() if options.second else self._judging_labels()
            items = self._left(judge)
            self.asked = len(items)
            progress.expect(len(items) - len(self.pictures.items))
            answers = None
            if options.output:
                answers = stack.enter_context(open_answers("jsonl", options.output, resume=options.resume))
            stack.enter_context(progress)
            classify = _Comparison(asking[0], asking[1], progress).classify if options.second else asking[0].classify
            emit = self._emitting(answers, judge)
            await run_in_order(batches(items, 1), classify, options.parallel, emit)

    async def _open(self, connection: Connection, key: str | None, stack: AsyncExitStack) -> Predictions:
        """Open one service, and learn what it serves. Raises UsageError, RunStopped."""
        top_k = MOST_TOP_K if self.options.second else TOP
        wishes = Wishes(top_k, None, connection.no_store)
        service = await stack.enter_async_context(aclosing(open_service(connection, key, wishes, self.progress)))
        about = await first_contact(service, connection, self.progress)
        try:
            labels = await service.labels(first_patience(connection, self.progress))
        except ItemError as exc:
            raise RunStopped(f"{service.option} {without_login(service.server)}: GET /labels: {exc.detail}") from exc
        self.subjects.append(Subject(connection.server, about, labels))
        contents = Contents(None, about.max_upload_bytes)
        return Predictions(service, contents, self.progress, most_in_a_row=most_in_a_row(connection))

    def _judging_labels(self) -> Callable[[Outcome], None]:
        """Return what keeps the verdict about an answered picture. Raises UsageError for unknown classes."""
        options, [subject] = self.options, self.subjects
        synsets = read_synsets(options.synsets) if options.synsets else None
        names = self.pictures.classes
        classes = Classes(subject.labels, synsets).find_all(names.values(), self.pictures.origin)

        def judge(outcome: Outcome) -> None:
            assert outcome.prediction is not None
            truth = classes[names[outcome.file]]
            self.verdicts.append(Verdict(outcome.file, truth, read_best(outcome.prediction, len(subject.labels))))

        return judge

    def _judging_pairs(self) -> Callable[[Outcome], None]:
        """Return what keeps both answers about a picture. Raises UsageError for services without a common class."""
        first, second = self.subjects
        by_index = PLACEHOLDER in {subject.about.model["labels"] for subject in self.subjects}
        indexes = match_classes(first.labels, second.labels, by_index=by_index)

        def judge(outcome: Outcome) -> None:
            assert outcome.prediction is not None
            assert outcome.against is not None
            other = read_best(outcome.against, len(second.labels))
            matched = tuple((indexes[index], score) for index, score in other)
            self.pairs.append(Pair(outcome.file, read_best(outcome.prediction, len(first.labels)), matched))

        return judge

    def _left(self, judge: Callable[[Outcome], None]) -> Sequence[Item]:
        """Return the pictures to ask about, and judge what an earlier run was answered, each picture once.

        Raises UsageError, also for an answer to a picture that is not asked about.
        """
        options, items = self.options, self.pictures.items
        if not (options.resume and options.output and options.output.exists()):
            return items
        left = {item.name for item in items}
        for outcome in read_answered(options.output):
            where = f"--output {options.output}: {printable(outcome.file)}"
            self._check_origin(outcome, where)
            if outcome.file in left:
                left.remove(outcome.file)
                try:
                    judge(outcome)
                except RunStopped as exc:
                    raise UsageError(f"{where}: {exc}; choose another --output") from exc
        to_ask = [item for item in items if item.name in left]
        self.progress.say(f"{len(items) - len(to_ask):,} of {len(items):,} are already in {options.output}")
        return to_ask

    def _check_origin(self, outcome: Outcome, where: str) -> None:
        """Raise UsageError unless an earlier answer is one that the services would give now."""
        found = [answer for answer in (outcome.prediction, outcome.against) if answer is not None]
        if len(found) != len(self.subjects):
            raise UsageError(
                f"{where}: was written {'with' if len(found) > 1 else 'without'} --against; choose another --output"
            )
        if not outcome.fingerprints:
            raise UsageError(
                f"{where}: has no fingerprint of the model that answered, as in files of older versions and of the "
                "client without `evaluate`; choose another --output"
            )
        for answer, fingerprint, subject in zip(found, outcome.fingerprints, self.subjects, strict=True):
            if fingerprint != subject.fingerprint:
                raise UsageError(
                    f"{where}: is of another model than {without_login(subject.server)} serves now; "
                    "choose another --output"
                )
            if len(answer["predictions"]) < min(TOP, len(subject.labels)):
                raise UsageError(f"{where}: has fewer than {TOP} classes; choose another --output")

    def _emitting(
        self, answers: Answers | None, judge: Callable[[Outcome], None]
    ) -> Callable[[Sequence[Outcome]], None]:
        told = [subject.fingerprint for subject in self.subjects if subject.fingerprint is not None]
        fingerprints = told if len(told) == len(self.subjects) else []

        def emit(outcomes: Sequence[Outcome]) -> None:
            for outcome in outcomes:
                if answers:
                    answers.write(replace(outcome, fingerprints=fingerprints))
                self.tally.count(outcome)
                if outcome.prediction is not None:
                    judge(outcome)

        return emit

    def report(self) -> tuple[Report, Gate | None]:
        """Return the report and the gate, if the user asked for one. Raises RunStopped without an answer."""
        options, failed = self.options, self.tally.failed.total()
        if not (self.verdicts or self.pairs):
            raise RunStopped("no picture was classified, so there is nothing to measure")
        if options.second:
            agreement = measure_agreement(self.pairs)
            gate = (
                Gate("--min-agreement", options.min_agreement, agreement.top1)
                if options.min_agreement is not None
                else None
            )
            return report_agreement((self.subjects[0], self.subjects[1]), agreement, gate, failed), gate
        [subject] = self.subjects
        accuracy = measure_accuracy(self.verdicts, len(subject.labels))
        gate = Gate("--min-top1", options.min_top1, accuracy.top1) if options.min_top1 is not None else None
        return report_accuracy(subject, self.pictures.origin, accuracy, gate, failed), gate


@dataclass(frozen=True)
class _Comparison:
    """Asks two services about the same pictures."""

    first: Predictions
    second: Predictions
    progress: Progress

    async def classify(self, items: Sequence[Item]) -> list[Outcome]:
        """Return one outcome for each item, an error if either service has none. Raises RunStopped, UsageError."""
        return [await self._classify(item) for item in items]

    async def _classify(self, item: Item) -> Outcome:
        try:
            async with asyncio.TaskGroup() as group:
                answers = [group.create_task(side.predict(item)) for side in (self.first, self.second)]
            outcome = Outcome(item.name, answers[0].result(), None, answers[1].result())
        except BaseExceptionGroup as group_error:
            error = group_error.exceptions[0]
            if not isinstance(error, ItemError):
                raise error from None
            outcome = Outcome(item.name, None, error.as_json())
        self.progress.advance(1, failed=outcome.prediction is None)
        return outcome
