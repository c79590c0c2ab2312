"""Latency of the instant answer over HTTP, beside an empty FastAPI route on the same server.

    python -m benchmarks.service [--seconds 5] [--rounds 5] [--jobs 5] [--json FILE]

Needs wrk (Debian: apt install wrk). Both routes are asked in turn in every round, on loopback, by
one client process; the medians of the rounds are printed with their ratio. Figures hold for the
machine they were taken on; the ratio says what the answer itself costs. Also: the same beside 200
open streams, seconds from the command to ready, small jobs per minute, and the answer without HTTP.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from api.caller import ANYBODY_HERE
from api.library import Library
from api.resolve import resolve
from api.schemas.asked import AdviceRequest
from api.settings import Settings
from api.store import Store
from benchmarks.parts.machine import describe
from benchmarks.parts.service_load import jobs_per_minute, listening, serving, streams

CONNECTIONS = (1, 16, 32, 64)
ASKED = {
    "model": {"kind": "summary", "family": "mlp", "units": [64, 64]},
    "data": {"kind": "summary", "shape": [30], "samples": 5000, "classes": 3},
    "training": {"epochs": 50, "batch_size": 32},
}
PROBED = {
    "model": {"kind": "summary", "family": "mlp", "units": [8]},
    "data": {"kind": "summary", "shape": [4], "samples": 500, "classes": 2},
    "training": {"epochs": 20, "batch_size": 32},
    "tier": "quick",
    "max_seconds": 60,
}
STREAMS = 200
BESIDE_STREAMS = 32
Row = dict[str, Any]
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
    if not float(rate[1]):
        raise RuntimeError(f"{url} answered nothing within {seconds} s; take more --seconds")
    return found["50"], found["99"], float(rate[1])


def in_process(store: Store) -> list[float]:
    """Milliseconds of answers without HTTP."""
    library, taken = Library(store, ANYBODY_HERE), []
    for _ in range(500):
        began = time.perf_counter()
        resolve(AdviceRequest.model_validate(ASKED), library).advice()
        taken.append(1e3 * (time.perf_counter() - began))
    return taken


def answers(store: Store, address: str, given: argparse.Namespace, folder: Path) -> list[Row]:
    """Both routes in turn, per number of connections; the last row beside open streams."""
    script = folder / "post.lua"
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = [[{json.dumps(ASKED)}]]\n"
        "wrk.headers['Content-Type'] = 'application/json'\n"
    )
    job = httpx.post(f"{address}/v1/recommendations", json=PROBED).json()
    rows = [measured(address, n, given, script) for n in given.connections]
    with streams(store, address + job["links"]["stream"], job["id"], STREAMS):
        rows.append({**measured(address, BESIDE_STREAMS, given, script), "streams": STREAMS})
    return rows


def measured(address: str, connections: int, given: argparse.Namespace, script: Path) -> Row:
    """Medians over rounds of what each route takes at so many connections."""
    rounds: dict[str, list[tuple[float, float, float]]] = {"/empty": [], "/v1/advice": []}
    for _ in range(given.rounds):
        for route, found in rounds.items():
            found.append(wrk(address + route, connections, given.seconds, script))
    names = ("median_ms", "tail_ms", "per_second")
    sides = {
        route: dict(zip(names, map(statistics.median, zip(*found, strict=True)), strict=True))
        for route, found in rounds.items()
    }
    ratios = [mine[1] / base[1] for base, mine in zip(*rounds.values(), strict=True)]
    return {
        "connections": connections, "streams": 0, "sides": sides,
        "tail_ratio": statistics.median(ratios),
    }  # fmt: skip


def shown(report: dict[str, Any]) -> Table:
    """The answers as a table."""
    table = Table("connections", "streams", "route", "median ms", "99 % ms", "per s", "99 % ratio")
    for row in report["answers"]:
        for route, side in row["sides"].items():
            ratio = f"{row['tail_ratio']:.2f}" if route != "/empty" else ""
            table.add_row(
                str(row["connections"]), str(row["streams"]), route, f"{side['median_ms']:.2f}",
                f"{side['tail_ms']:.2f}", f"{side['per_second']:.0f}", ratio,
            )  # fmt: skip
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=5, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=5, help="jobs that are counted; 0 is none")
    parser.add_argument(
        "--connections", type=int, nargs="+", default=CONNECTIONS, help="at a time, in turn"
    )
    parser.add_argument("--json", type=Path, help="where the figures go")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; on Debian and Ubuntu: apt install wrk")
    console = Console()
    report: dict[str, Any] = {"script": "service", "backend": "jax", "machine": describe()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(Settings(data_dir=folder / "here"))
        taken = sorted(in_process(store))
        report["in_process_ms"] = {"median": statistics.median(taken), "tail": taken[-5]}
        report["machine"]["used"] = "which everything shared"
        with listening(store.settings) as address:
            report["answers"] = answers(store, address, given, folder)
        store.close()
        starts = []
        for number in range(given.rounds):
            with serving(folder / str(number)) as (_, seconds):
                starts.append(seconds)
        report["seconds_to_ready"] = statistics.median(starts)
        if given.jobs:
            with serving(folder / "jobs") as (address, _):
                report["jobs_per_minute"] = jobs_per_minute(address, PROBED, given.jobs)
    console.print(shown(report))
    console.print({key: report[key] for key in report if key not in ("answers", "machine")})
    if given.json is not None:
        given.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
