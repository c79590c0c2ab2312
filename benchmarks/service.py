"""Latency of the instant answer over HTTP, beside an empty FastAPI route on the same server.

    python -m benchmarks.service [--seconds 5] [--rounds 3]

Needs wrk (Debian: apt install wrk). Both routes are asked in turn in every round, on loopback, by
one client process; the medians of the rounds are printed with their ratio. Figures hold for the
machine they were taken on; the ratio says what the answer itself costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import uvicorn
from rich.console import Console
from rich.table import Table

from api.app import create_app
from api.library import Library
from api.resolve import resolve
from api.schemas import AdviceRequest
from api.settings import Settings
from api.store import Store

CONNECTIONS = (1, 16, 32, 64)
ASKED = {
    "model": {"kind": "summary", "family": "mlp", "units": [64, 64]},
    "data": {"kind": "summary", "shape": [30], "samples": 5000, "classes": 3},
    "training": {"epochs": 50, "batch_size": 32},
}
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def wrk(url: str, connections: int, seconds: int, script: Path) -> tuple[float, float, float]:
    """Milliseconds at the median and at 99 %, and requests per second."""
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--latency",
        "-s",
        str(script),
        url,
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    if re.search(r"Non-2xx|Socket errors", text):
        raise RuntimeError(text)
    found = {
        share: float(value) * UNITS[unit]
        for share, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", text)
    }
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert rate is not None
    return found["50"], found["99"], float(rate[1])


def in_process(store: Store) -> list[float]:
    """Milliseconds of answers without HTTP."""
    library, taken = Library(store), []
    for _ in range(500):
        began = time.perf_counter()
        resolve(AdviceRequest.model_validate(ASKED), library).advice()
        taken.append(1e3 * (time.perf_counter() - began))
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=5, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; on Debian and Ubuntu: apt install wrk")
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Settings(data_dir=Path(folder)))
        taken = sorted(in_process(store))
        console.print(
            f"in process: median {statistics.median(taken):.2f} ms, 99 % {taken[-5]:.2f} ms"
        )
        app = create_app(store.settings)

        @app.post("/empty")
        async def empty() -> dict[str, bool]:
            return {"ok": True}

        config = uvicorn.Config(app, port=0, log_level="error", access_log=False)
        server = uvicorn.Server(config)
        running = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
        running.start()
        while not server.started:
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        script = Path(folder) / "post.lua"
        script.write_text(
            f"wrk.method = 'POST'\nwrk.body = [[{json.dumps(ASKED)}]]\n"
            "wrk.headers['Content-Type'] = 'application/json'\n"
        )
        table = Table("connections", "route", "median ms", "99 % ms", "per second", "99 % ratio")
        for connections in CONNECTIONS:
            rounds: dict[str, list[tuple[float, float, float]]] = {"/empty": [], "/v1/advice": []}
            for _ in range(given.rounds):
                for route, found in rounds.items():
                    url = f"http://127.0.0.1:{port}{route}"
                    found.append(wrk(url, connections, given.seconds, script))
            base = statistics.median(tail for _, tail, _ in rounds["/empty"])
            for route, found in rounds.items():
                middle, tail, rate = (
                    statistics.median(column) for column in zip(*found, strict=True)
                )
                table.add_row(
                    str(connections), route, f"{middle:.2f}", f"{tail:.2f}", f"{rate:.0f}",
                    f"{tail / base:.2f}",
                )  # fmt: skip
        console.print(table)
        server.should_exit = True
        running.join()
        store.close()


if __name__ == "__main__":
    main()
