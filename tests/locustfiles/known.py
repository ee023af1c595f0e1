"""Users of tests/known_target.py; the plan says which of its two requests they send, and how fast.

Any status other than 200 is a failure, as Locust has it by default.
"""

from locust import FastHttpUser, constant, tag, task


class KnownUser(FastHttpUser):
    """Sends one request after the other unless the plan says otherwise."""

    wait_time = constant(0)
    concurrency = 1

    @tag("fixed")
    @task
    def ask_fixed(self) -> None:
        self.client.get("/fixed", name="GET /fixed")

    @tag("serial")
    @task
    def ask_serial(self) -> None:
        self.client.get("/serial", name="GET /serial")
