"""Taskiq on Redis Streams: consumer groups and XAUTOCLAIM, as ours."""

import asyncio
import os
import sys

from task import work as do_work
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

lease_s, url = os.environ["QUEUE_LEASE_S"], os.environ["QUEUE_URL"]
options = {"idle_timeout": int(1000 * float(lease_s))} if lease_s else {}
broker = RedisStreamBroker(url, **options).with_result_backend(RedisAsyncResultBackend(url, result_ex_time=3600))


@broker.task(task_name="work")
def work(number: int, seconds: float) -> None:
    """Do the task."""
    do_work(number, seconds)


async def send(count: int, seconds: float) -> None:
    """Send `count` tasks."""
    await broker.startup()
    for number in range(count):
        await work.kiq(number, seconds)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(send(int(sys.argv[2]), float(sys.argv[3])))
