"""Dramatiq on Redis lists: workers show signs of life, and the tasks of silent ones go back to the queue."""

import os
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from task import work as do_work

lease_s, url = os.environ["QUEUE_LEASE_S"], os.environ["QUEUE_URL"]
ALWAYS = 1_000_000
options = {"heartbeat_timeout": int(1000 * float(lease_s)), "maintenance_chance": ALWAYS} if lease_s else {}
broker = RedisBroker(url=url, **options)
broker.add_middleware(Results(backend=RedisBackend(url=url), result_ttl=3_600_000))
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="work", max_retries=3, store_results=True)
def work(number: int, seconds: float) -> None:
    """Do the task."""
    do_work(number, seconds)


if __name__ == "__main__":
    for each in range(int(sys.argv[2])):
        work.send(each, float(sys.argv[3]))
