"""Leaves jobs in Redis in every state that they can be in, and ends as a replica does that is killed.

    python -P tests/leave_jobs.py REDIS_URL QUEUE CLASSIFIER_SETTINGS_JSON PICTURE…

tests/serve_app/jobs/test_jobs_of_0_1_0.py runs it with the modules of 0.1.0, so it uses only names that are the same in
both versions. Prints one line of JSON: what was answered for each job.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import serve_app
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.settings import ClassifierSettings
from tests.gate import gate_before
from tests.jobs import replica
from tests.serve_app.jobs.test_jobs_worker import POISON, Queue


async def main(url: str, queue: str, settings: str, *paths: str) -> None:
    pictures = [Path(path).read_bytes() for path in paths]
    left = {"code": serve_app.__file__, "poison": await leave_poison(url, f"{queue}-poison")}
    classifier = await Classifier.load(ClassifierSettings.model_validate_json(settings))
    async with replica(classifier, url, queue=queue) as desk:
        left["done"] = (await desk.ended(await desk.accepted(*pictures)))["id"]
        left["done_answer"] = (await desk.http.get(f"/jobs/{left['done']}")).text
        with gate_before(classifier) as gate:
            gate.shut()
            left["running"] = await desk.accepted(*pictures)
            await gate.begun()
            left["queued"] = (await desk.submit(*pictures, key="order-7")).json()["id"]
            left["cancelled"] = await desk.accepted(*pictures)
            await desk.http.delete(f"/jobs/{left['cancelled']}")
            print(json.dumps(left), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


async def leave_poison(url: str, queue: str) -> str:
    """Return a job of two pictures, the first of which was begun by two workers that died."""
    async with Queue(url, queue=queue, max_attempts=2) as opened:
        job = await opened.submit(POISON, b"dog")
        first, [work] = await opened.take_and_fall_silent()
        await opened.let_lapse(first, work)
        second = opened.claims()
        assert await second.reclaim() == work.entry
        assert await second.begin(work.entry)
        await opened.let_lapse(second, work)
    return job


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
