"""What a server of the Open Inference Protocol is asked before the load."""

import pytest
from starlette.responses import JSONResponse

from loadtest.load.inference_input import Input, read_input
from tests.simple_service import simple_service

TOLD = {"name": "m", "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}], "outputs": []}


def test_the_server_is_asked_directly_whatever_proxy_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_API_KEY", "secret")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with (
        simple_service(lambda _: JSONResponse({})) as proxy,
        simple_service(lambda _: JSONResponse(TOLD)) as server,
    ):
        for name in ("http_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert read_input(f"{server.url}/v2/models/m", 2, 5) == Input("pixels", "UINT8", (2, 8, 8, 3))
    assert (proxy.lines(), server.lines()) == (set(), {"GET /v2/models/m"})
