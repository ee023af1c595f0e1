"""The steps of the job queue that must happen at once or not at all: Lua files beside this one, run inside Redis.

KEYS[1] is the prefix of all keys of one queue; what stands behind it:

stream       one entry for each picture not done, {job, file, name}, read by the consumer group `workers`. Its consumers
             are the workers, by their names for what they began, and as NAME:unbegun for what they were given before
job:ID       hash: state, files, done, bad, attempts, times in ms, top_k, bytes, first and last entry, error
input:ID     hash: index → the picture's bytes; a field goes when its picture is done, the key when the job ends
results:ID   hash: index → the picture's result, JSON; written once
key:HASH     the id of the job with this idempotency key
waiting      sorted set of the queued jobs, in order; `running`: set of those that have begun
bytes        how many bytes the inputs of all jobs have, with FILE_BYTES for each
ended        stream of ids, newest 1,000, that waiters read; `dead`: the dead letters, newest 1,000
poison:ID:I  the picture of a dead letter, for as long as its job is kept

Time is that of Redis, so that machines need not agree on it. Each script that must work when Redis is full begins
with a command that frees: after one, Redis lets the rest of a script through (`maxmemory`, 6.2 and 7).
"""

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Literal

from serve_app.classifier.job_settings import FILE_BYTES
from serve_app.errors import EVERY_FILE_FAILED, EXPIRED, JobError
from serve_app.jobs.queue.state import State

Script = Literal["submit", "find", "cancel", "begin", "finish", "give_back", "renew", "reclaim", "sweep", "counts"]
GROUP = "workers"
UNBEGUN = ":unbegun"


@cache
def read_script(name: Script) -> str:
    """Return the Lua text of a script: its constants, what all scripts share, and its own file."""
    folder = files(__package__)
    texts = ((folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("shared", name))
    return "\n".join([*_constants(), *texts])


def _constants() -> Iterator[str]:
    """Yield the words that Python and Lua share, as Lua."""
    yield f"local FILE_BYTES, GROUP, UNBEGUN = {FILE_BYTES}, {json.dumps(GROUP)}, {json.dumps(UNBEGUN)}"
    for state in State:
        yield f"local {state.name} = {json.dumps(state)}"
    for name, error in (("EXPIRED", EXPIRED), ("EVERY_FILE_FAILED", EVERY_FILE_FAILED)):
        yield f"local {name} = {_table(error)}"


def _table(error: JobError) -> str:
    return f"{{code = {json.dumps(error.code)}, detail = {json.dumps(error.detail)}}}"
