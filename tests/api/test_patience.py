"""Slow clients are not waited for, however many they are; others are served meanwhile (A21)."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from api.settings import Settings
from tests.api.server import npz, until
from tests.api.web_process import web_process

pytestmark = pytest.mark.backend_free

SECONDS = 1.0
RATE = 4 * 1024
# On a loaded machine, beside the second that is waited.
GRACE = 4.0
ASKED = {
    "model": {"kind": "summary", "family": "mlp", "units": [16]},
    "data": {"kind": "summary", "shape": [6], "classes": 3, "samples": 2000},
}
HOST = b"Host: 127.0.0.1\r\n"
# Heads that do not end, and bodies that do not, said to be long or in pieces.
HEAD = b"GET /livez HTTP/1.1\r\n" + HOST
LONG = (
    b"POST /v1/advice HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    b"Content-Length: 100000\r\n\r\n"
)
FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="d.npz"\r\n\r\n'
PIECES = (
    b"POST /v1/datasets HTTP/1.1\r\n" + HOST + b"Content-Type: multipart/form-data; boundary=b\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n" % (len(FORM), FORM)
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = {
        "KGO_HEAD_SECONDS": f"{SECONDS}",
        "KGO_BODY_SECONDS": f"{SECONDS}",
        "KGO_BODY_BYTES_PER_SECOND": f"{RATE}",
        "KGO_PING_SECONDS": "0.5",
    }
    with web_process(tmp_path_factory.mktemp("patience") / "data", **settings) as (address, start):
        start()
        until(lambda: httpx.get(f"{address}/readyz").status_code == 200, "it is ready")
        yield address


async def slow(address: str, start: bytes, part: bytes) -> bytes:
    """Send a part now and then until the other side closes; returns what it said."""
    where = urlsplit(address)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    heard = bytearray()

    async def hear() -> None:
        with contextlib.suppress(ConnectionError):  # what was under way to it was refused
            while received := await reader.read(65536):
                heard.extend(received)

    hearing = asyncio.create_task(hear())
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(start)
            while not hearing.done():
                await asyncio.wait([hearing], timeout=0.1)
                writer.write(part)
                await writer.drain()
        await hearing
    finally:
        hearing.cancel()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return bytes(heard)


def alone(address: str, start: bytes, part: bytes) -> bytes:
    """What one slow client hears until it is closed, in time."""

    async def within() -> bytes:
        async with asyncio.timeout(SECONDS + GRACE):
            return await slow(address, start, part)

    return asyncio.run(within())


def test_hundreds_of_slow_connections_are_closed_while_others_are_served(address: str) -> None:
    kinds = [(HEAD, b"X"), (LONG, b" "), (PIECES, b"1\r\n-\r\n"), (b"", b"")] * 50

    async def attack() -> tuple[list[bytes], int]:
        async with (
            httpx.AsyncClient(base_url=address, timeout=GRACE) as others,
            asyncio.timeout(SECONDS + GRACE),
            asyncio.TaskGroup() as group,
        ):
            ends = [group.create_task(slow(address, *kind)) for kind in kinds]
            answered = 0
            while not all(end.done() for end in ends):
                assert (await others.get("/livez")).status_code == 200
                assert (await others.post("/v1/advice", json=ASKED)).status_code == 200
                answered += 1
        return [end.result() for end in ends], answered

    heard, answered = asyncio.run(attack())
    assert answered >= 3
    for (start, _), said in zip(kinds, heard, strict=True):
        if start in (LONG, PIECES):
            assert said.startswith(b"HTTP/1.1 408 "), (start, said)
            assert b'"code":"request_timeout"' in said
            assert b"application/problem+json" in said
            assert b"connection: close" in said.lower()
        else:
            assert said == b"", start


def test_a_slow_head_after_an_answer_is_not_waited_for_either(address: str) -> None:
    whole = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"
    assert alone(address, whole, b"\r\n").startswith(b"HTTP/1.1 200 ")


def test_what_is_left_of_a_refused_body_is_not_waited_for(address: str) -> None:
    # An answer that needs no body comes at once; the rest of the body is nobody's.
    refused = b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    assert alone(address, refused, b"1\r\nx\r\n").startswith(b"HTTP/1.1 404 ")


def test_a_body_that_came_fast_must_go_on_all_the_same(address: str) -> None:
    # As much at once as would do for ten stretches.
    start = b"%x\r\n%s\r\n" % (10 * RATE, b"-" * 10 * RATE)
    assert alone(address, PIECES + start, b"1\r\n-\r\n").startswith(b"HTTP/1.1 408 ")


def test_a_slow_but_steady_upload_passes(address: str) -> None:
    rng = np.random.default_rng(0)
    file = npz(x=rng.normal(size=(4000, 4)), y=np.arange(4000) % 3)
    assert len(file) > 100_000
    body = io.BytesIO(FORM + file + b"\r\n--b--\r\n")

    def parts() -> Iterator[bytes]:
        while part := body.read(RATE):  # eight times the least rate
            yield part
            time.sleep(0.12)

    began = time.monotonic()
    answer = httpx.post(
        f"{address}/v1/datasets",
        content=parts(),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
        timeout=60,
    )
    assert time.monotonic() - began > 2 * SECONDS
    assert answer.status_code == 201, answer.text


def test_streams_are_left_alone(address: str) -> None:
    job = httpx.post(f"{address}/v1/recommendations", json=ASKED).json()["id"]
    began = time.monotonic()
    with httpx.stream("GET", f"{address}/v1/recommendations/{job}/stream", timeout=30) as stream:
        for line in stream.iter_lines():
            if line.startswith(":") and time.monotonic() - began > 3 * SECONDS:
                break
    httpx.post(f"{address}/v1/recommendations/{job}/cancel")
    assert time.monotonic() - began > 3 * SECONDS, "it was closed"


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"GET /" + b"x" * 2**17, id="line"),
        pytest.param(HEAD + b"X-Long: " + b"x" * 2**17, id="header"),
        pytest.param(HEAD + b"X: y\r\n" * 2**15, id="headers"),
        pytest.param(
            b"POST /v1/advice HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n" + b"X: y\r\n" * 2**15,
            id="trailers",
        ),
    ],
)
def test_a_head_without_end_is_cut_off(address: str, start: bytes) -> None:
    began = time.monotonic()
    heard = alone(address, start, b"")
    assert time.monotonic() - began < SECONDS, "it was not waited for"
    assert heard == b"" or heard.startswith(b"HTTP/1.1 400 ")
    assert httpx.get(f"{address}/livez").status_code == 200


def test_the_usual_limits_let_the_largest_upload_through_a_slow_line(tmp_path: Path) -> None:
    # A megabit per second brings 125 000 bytes, and 256 MiB in 36 minutes.
    limits = Settings(data_dir=tmp_path)
    assert limits.body_bytes_per_second < 125_000 / 2
    assert limits.head_seconds <= 30
    assert limits.body_seconds <= 30
