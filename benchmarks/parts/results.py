"""Results: ratios of what was measured, and the file of the raw figures."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

FLOOR = "floor"
# Its seconds are divided by the bytes that it moves and multiplied by those of the rule.
SCALED = "torch foreach Adam by bytes"
# What every other fit is compared with.
PLAIN = "SGD, keras"
# Below this share of a step of SGD what a rule adds is noise, and no ratio to it means anything.
LEAST_ADDED = 0.03
Ratio = tuple[float, float, float]


def over(cell: dict[str, Any], side: str, other: str) -> Ratio:
    """A side's seconds as a multiple of another's: (lower quartile, median, upper quartile)."""
    pairs = zip(cell["seconds"][side], cell["seconds"][other], strict=True)
    return quartiles([a / b for a, b in pairs])


def quartiles(values: list[float]) -> Ratio:
    """Lower quartile, median and upper quartile."""
    if len(values) < 2:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def bandwidth(cell: dict[str, Any]) -> float:
    """GB per second of the floor."""
    return float(cell["bytes"] / statistics.median(cell["seconds"][FLOOR]) / 1e9)


def first_call(cell: dict[str, Any], side: str) -> float:
    """CPU seconds of a side's first call."""
    return statistics.median(cell["first_call"][side])


def added(cell: dict[str, Any], side: str) -> Ratio:
    """What a side's fit takes beyond that of plain SGD, as a share of that, with quartiles."""
    low, middle, high = over(cell, side, PLAIN)
    return low - 1, middle - 1, high - 1


def added_ratio(cell: dict[str, Any], rule: str) -> float | None:
    """What ours adds as a multiple of what the ordinary way adds; None where that is noise."""
    ours, ordinary = (added(cell, f"{rule}, {kind}")[1] for kind in ("ours", "ordinary"))
    return ours / ordinary if ordinary >= LEAST_ADDED else None


def probe_seconds(cell: dict[str, Any], side: str) -> float:
    """CPU seconds of all candidates on one side; the loops' candidates all cost the same."""
    seconds = cell["seconds"][side]
    if len(seconds) == cell["candidates"]:
        return float(sum(seconds))
    return float(cell["candidates"] * statistics.median(seconds))


def probe_ratio(cell: dict[str, Any], side: str) -> float:
    """What ours costs as a multiple of another side."""
    return probe_seconds(cell, "ours") / probe_seconds(cell, side)


def probe_figures(cell: dict[str, Any], side: str) -> list[str]:
    """Seconds of a side, ours as a multiple of it, and how many times faster ours is."""
    seconds = f"{probe_seconds(cell, side):.1f}"
    if side.startswith("ours"):
        return [seconds, "", ""]
    ratio = probe_ratio(cell, side)
    return [seconds, f"{ratio:.3f}", f"{1 / ratio:.1f}"]


def save(report: dict[str, Any], file: Path | None) -> None:
    """Writes a report; a reader never finds half of one."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".part")
    beside.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    beside.replace(file)
