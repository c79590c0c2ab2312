"""The page on the service, from the figures of `benchmarks.service`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.parts import goals

Report = dict[str, Any]
Row = dict[str, Any]
MakeTable = Callable[[Sequence[str], Iterable[Sequence[str]]], str]

HEAD = """# What the service takes

The instant answer over HTTP (`POST /v1/advice`) beside an empty route of the same server, and what
else one waits for.
`make bench SCRIPTS=service` measures, with wrk, and makes this page.
One web process answered on loopback, and wrk kept so many connections busy, both routes in turn in
every round; figures are medians over the rounds.
In the last row there were open streams of one job, which told each of them ten events a second.
Client and server share the processor, so ratios say more than milliseconds.
"""
HEADINGS = (
    "connections", "streams", "median ms", "empty", "99 % ms", "empty", "per second", "empty",
    "99 % / empty", "goal", "",
)  # fmt: skip


def sections(report: Report, table: MakeTable) -> Iterable[str]:
    """A row per number of connections; then the single figures."""
    yield "### The instant answer over HTTP"
    yield table(HEADINGS, [_row(row) for row in report["answers"]])
    yield "### The rest"
    inside = report["in_process_ms"]
    figures = [
        ("the answer without HTTP, median ms", inside["median"], goals.IN_PROCESS_MS),
        ("the answer without HTTP, 99 % ms", inside["tail"], None),
        ("from the command to ready, seconds", report["seconds_to_ready"], goals.READY_SECONDS),
        ("small jobs per minute, one at a time", report["jobs_per_minute"], None),
    ]
    rows = []
    for name, value, bound in figures:
        verdicts = ["", ""] if bound is None else [f"≤ {bound:g}", goals.verdict(value, bound)]
        rows.append([name, f"{value:.2f}", *verdicts])
    yield table(("", "measured", "goal", ""), rows)


def _row(row: Row) -> list[str]:
    ours, empty = row["sides"]["/v1/advice"], row["sides"]["/empty"]
    figures = [
        f"{side[name]:{digits}}"
        for name, digits in (("median_ms", ".2f"), ("tail_ms", ".1f"), ("per_second", ".0f"))
        for side in (ours, empty)
    ]
    ratio, bound = row["tail_ratio"], goals.TAIL_OVER_EMPTY
    verdicts = ["", ""]
    if row["connections"] == goals.TAIL_CONNECTIONS:
        verdicts = [f"≤ {bound:g}", goals.verdict(ratio, bound)]
    return [str(row["connections"]), str(row["streams"]), *figures, f"{ratio:.2f}", *verdicts]
