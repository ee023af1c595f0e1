"""Celery with the options that Ray Serve's `@serve.task_consumer` sets and does not let anyone change."""

import os
import sys

from celery import Celery
from task import work as do_work

lease_s = os.environ["QUEUE_LEASE_S"]
app = Celery("with_celery", broker=os.environ["QUEUE_URL"], backend=os.environ["QUEUE_URL"])
app.conf.update(
    worker_pool="threads",
    worker_concurrency=4,
    worker_prefetch_multiplier=1,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options=(
        {"visibility_timeout": float(lease_s), "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
        if lease_s
        else {}
    ),
)


@app.task(name="work")
def work(number: int, seconds: float) -> None:
    """Do the task."""
    do_work(number, seconds)


if __name__ == "__main__":
    for each in range(int(sys.argv[2])):
        work.delay(each, float(sys.argv[3]))
