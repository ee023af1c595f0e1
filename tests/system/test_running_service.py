"""A running service seen by a real Prometheus and in a real browser."""

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import Fitted
from tests.failures import keep_on_failure
from tests.ports import free_port
from tests.service import Service, adapted, launcher, own_environment, service, write_config
from tests.system.browser import chromium, errors_of

WAIT_S = 90


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, fitted: Fitted) -> Iterator[Service]:
    """`make serve` with one_replica.yaml, fitted weights and ports of its own."""
    folder = tmp_path_factory.mktemp("service")
    port = free_port()
    config = write_config(folder, adapted("one_replica.yaml", port=port, model_args=fitted.args))
    with service(launcher(config), own_environment(folder), folder, port) as started:
        started.wait_until_ready()
        started.wait_for_ready_block()
        yield started


@contextmanager
def prometheus(folder: Path, scraped: Mapping[str, object]) -> Iterator[str]:
    """Yield the URL of a Prometheus that scrapes as `scraped` says."""
    config, log = folder / "prometheus.yml", folder / "prometheus.log"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [scraped]}))
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=file, stderr=file)
    try:
        with keep_on_failure("prometheus", lambda: [log]):
            yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.system("prometheus")
def test_a_prometheus_finds_the_service_and_reads_the_classifiers_metrics(
    running: Service, fitted: Fitted, tmp_path: Path
) -> None:
    scraped = {
        "job_name": "ray",
        "http_sd_configs": [
            {
                "url": f"{running.dashboard}/api/prometheus/sd",
                "refresh_interval": "1s",
                "authorization": {"type": "Bearer", "credentials_file": running.environment["RAY_AUTH_TOKEN_PATH"]},
            }
        ],
    }
    picture = fitted.pictures["thing 7"]
    assert httpx.post(f"{running.url}/model/predict", content=picture, timeout=WAIT_S).status_code == 200
    deadline = time.monotonic() + WAIT_S
    with prometheus(tmp_path, scraped) as url:
        found: list[object] = []
        while not found:
            assert time.monotonic() < deadline, "Prometheus has no ray_classifier_batch_pictures_count"
            time.sleep(0.5)
            try:
                query = {"query": "ray_classifier_batch_pictures_count > 0"}
                answer = httpx.get(f"{url}/api/v1/query", params=query, timeout=WAIT_S).raise_for_status()
                found = answer.json()["data"]["result"]
            except httpx.HTTPError:  # it does not listen yet, or answers that it is not ready
                continue


@pytest.mark.system("chromium", "chromedriver")
@pytest.mark.parametrize("application", ["model", "user"])
def test_an_api_page_shows_every_operation_without_internet(running: Service, tmp_path: Path, application: str) -> None:
    paths = httpx.get(f"{running.url}/{application}/openapi.json", timeout=WAIT_S).json()["paths"]
    operations = sum(len(methods) for methods in paths.values())
    with chromium(tmp_path, 1280) as browser:
        browser.get(f"{running.url}/{application}/docs")
        deadline = time.monotonic() + WAIT_S
        while browser.execute_script("return document.querySelectorAll('.opblock').length") < operations:
            assert time.monotonic() < deadline, errors_of(browser)
            time.sleep(0.1)
        assert errors_of(browser) == []
