"""The workload: people who look users up and, half as often, send a picture; 1 to 5 s between two requests.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000

with the web page or --headless, in one process or --processes N; `--tags lookup` or `--tags predict` runs one
kind alone. LOADTEST_API_KEY in the environment is sent as `Authorization: Bearer …`. An answer counts as a failure
unless its status is 200 and its JSON has what was asked for.
"""

import json
from contextlib import suppress
from typing import ClassVar

from locust import FastHttpUser, between, events, tag, task
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment
from locust.runners import MasterRunner

from loadtest.load.pictures import PicturePool, read_size
from loadtest.plan.base_url import read_base_url
from loadtest.plan.target_key import key_headers
from loadtest.rows.columns import REFUSAL_STATUSES, status_error

ERROR_KEYS = ("code", "detail", "request_id")


class Visitor(FastHttpUser):
    """One person: two lookups for each picture, in random order.

    A FastHttpUser, because the generator often shares its machine with the service: one request of this mix
    costs it 0.3 ms of CPU time, with HttpUser 0.8 ms.
    """

    wait_time = between(1, 5)
    # Whoever has waited this long is gone: the request counts as a failure.
    network_timeout = 60.0
    # One connection, like one browser tab. It also bounds what geventhttpclient hides: a GET whose connection
    # closes unanswered is sent again, uncounted, up to `concurrency` + 1 times (default: 11); a POST is not.
    concurrency = 1
    pictures: ClassVar[PicturePool]
    checks_errors: ClassVar[bool] = False

    def __init__(self, environment: Environment) -> None:
        self.default_headers = key_headers()
        with suppress(ValueError):  # Locust says itself what is wrong with another one
            self.host = read_base_url(self.host or "")
        super().__init__(environment)

    @tag("lookup")
    @task(2)
    def look_up_users(self) -> None:
        """Ask for the first page of users."""
        with self.client.get(
            "/user/",
            name="GET /user/",
            catch_response=True,
            allow_redirects=False,
        ) as response:
            _check(response, "users")

    @tag("predict")
    @task(1)
    def predict(self) -> None:
        """Send a picture, by default one that was never sent before."""
        self.send_picture("/model/predict")

    def send_picture(self, path: str) -> None:
        """Send the next picture to `path`, under whose name Locust counts the request."""
        with self.client.post(
            path,
            name=f"POST {path}",
            files={"file": ("picture.jpg", self.pictures.next_picture(), "image/jpeg")},
            catch_response=True,
            allow_redirects=False,
        ) as response:
            _check(response, "prediction", "predictions")


def _check(response: ResponseContextManager, *keys: str) -> None:
    fault = _find_fault(response, keys)
    if fault is not None:
        response.failure(fault)


def _find_fault(response: ResponseContextManager, keys: tuple[str, ...]) -> str | None:
    """Return what is wrong, in fixed words: Locust lists each different message separately."""
    # 0 stands for no answer at all; 200 with an exception for an answer that broke off.
    if response.status_code not in {0, 200}:
        fault = status_error(response.status_code)
        return fault + (_find_error_fault(response) if Visitor.checks_errors else "")
    broken = response.request_meta["exception"]
    if broken is not None:
        return f"no whole answer: {type(broken).__name__}"
    try:
        answer = json.loads(response.content)
    except ValueError:
        return "the answer is not JSON"
    missing = [key for key in keys if not isinstance(answer, dict) or key not in answer]
    return f"the answer has no {missing[0]}" if missing else None


def _find_error_fault(response: ResponseContextManager) -> str:
    """Return what is wrong with an error: its shape, or a refusal that does not say when to come back."""
    try:
        answer = json.loads(response.content)
    except ValueError:
        return ", not in JSON"
    missing = [key for key in ERROR_KEYS if not isinstance(answer, dict) or not isinstance(answer.get(key), str)]
    if missing:
        return f", without {missing[0]}"
    if response.status_code in REFUSAL_STATUSES and not _header(response, "retry-after").isdecimal():
        return ", without Retry-After"
    return ""


def _header(response: ResponseContextManager, name: str) -> str:
    return str(response.headers.get(name) or "") if response.headers is not None else ""


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument(
        "--pictures",
        choices=("distinct", "repeated"),
        default="distinct",
        help="distinct: no file is sent twice, so no cache can answer; repeated: those of the pool, again and again",
    )
    parser.add_argument(
        "--picture-pool",
        type=read_size,
        default=32,
        help="Pictures to draw before the test; each request sends the next of them (default: 32)",
        # The page would hand back text that has not passed read_size.
        include_in_web_ui=False,
    )

    parser.add_argument(
        "--errors",
        choices=("counted", "checked"),
        default="counted",
        help="checked: an error must also have the body {code, detail, request_id}, and a 429 or 503 Retry-After",
    )


@events.init.add_listener  # type: ignore[untyped-decorator]
def _refuse_login(environment: Environment, **_: object) -> None:
    # Locust shows the host on its page, and keeps it in its reports. What else may be wrong with one, it says itself.
    if "@" in (environment.host or ""):
        raise SystemExit("--host: must have no user and password: Locust's page and reports show it")


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _draw_pictures(environment: Environment, **_: object) -> None:
    # Not at import: `--processes` forks after the import, and every process needs its own pool.
    if environment.parsed_options is not None and not isinstance(environment.runner, MasterRunner):
        options = environment.parsed_options
        Visitor.checks_errors = options.errors == "checked"
        Visitor.pictures = PicturePool(options.picture_pool, distinct=options.pictures == "distinct")
