"""Records what the clients send: see the package."""

import asyncio
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
from PIL import Image

from tests.foreign_clients import install, run
from tests.hostile import encode
from tests.serve_app.classifier.test_images import smooth

RECORDED = Path(__file__).parents[1] / "serve_app" / "open_inference" / "recorded"


class Forwarder:
    """Passes the requests of a client on to a service and keeps those for inferences."""

    def __init__(self, service: str, name: str) -> None:
        self._service = service
        self._name = name
        self._kept = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)
                writer.write(await self._forward(head, body))
        writer.close()

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        line, *fields = head.rstrip().split(b"\r\n")
        method, path, _ = line.decode().split()
        headers = [(name, value.strip()) for name, _, value in (field.partition(b":") for field in fields)]
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.request(method, self._service + path, content=body, headers=headers)
        if path.endswith("/infer"):
            self._kept += 1
            (RECORDED / f"{self._name}_{self._kept}.http").write_bytes(head + body)
        told = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        return f"HTTP/1.1 {answer.status_code} X\r\n{told}\r\n".encode() + answer.content


async def record(url: str, model: str) -> None:
    split = urlsplit(url)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "picture.png", Path(folder) / "pixels.npy"
        picture = smooth(16, 12)
        files[0].write_bytes(encode(picture, "PNG"))
        np.save(files[1], np.asarray(Image.open(files[0]).convert("RGB"))[None])
        for client, script, scheme in (("triton", "triton_http.py", ""), ("kserve", "kserve_rest.py", "http://")):
            server = await asyncio.start_server(
                Forwarder(f"{split.scheme}://{split.netloc}", client).handle, "127.0.0.1", 0
            )
            port = server.sockets[0].getsockname()[1]
            python = await asyncio.to_thread(install, client, Path(folder))
            address = f"{scheme}127.0.0.1:{port}{split.path}"
            await asyncio.to_thread(run, python, script, address, model, *map(str, files))
            server.close()


asyncio.run(record(sys.argv[1], sys.argv[2]))
