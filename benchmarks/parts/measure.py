"""Measuring: sides in turn, round after round, by CPU time."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from benchmarks.parts.sides import Side

# Rounds go on until the whole cell has run this long, but not beyond so many times the least.
ENOUGH_SECONDS = 2.0
MOST = 5
Seconds = dict[str, list[float]]
Tell = Callable[[str], Any]


def first_calls(sides: Mapping[str, Side], times: int, tell: Tell) -> Seconds:
    """CPU seconds of each side's first step: tracing, compiling, and one step.

    Args:
        sides: The sides, by name; each is ready to be stepped afterwards.
        times: How often each starts anew, in alternating order.
        tell: Is told what goes on.
    """
    seconds: Seconds = {name: [] for name in sides}
    for turn in range(times):
        for name in list(sides) if turn % 2 == 0 else reversed(sides):
            tell(f"first call of {name}")
            side = sides[name]
            side.renew()
            seconds[name].append(_timed(side, 1))
    return seconds


def rounds(sides: Mapping[str, Side], least: int, calls: int, tell: Tell) -> Seconds:
    """CPU seconds of one step of each side in each round; all sides step in each round.

    The process' own time, since the machine may be shared: what others take of the core does not
    count.

    Args:
        sides: The sides, by name, after their first call.
        least: Rounds, at least; quick cells take up to five times as many.
        calls: Steps that are timed together.
        tell: Is told what goes on.
    """
    seconds: Seconds = {name: [] for name in sides}
    for side in sides.values() if least else ():
        _timed(side, 1)
    gc.collect()
    gc.freeze()
    began = time.process_time()
    for turn, names in enumerate(_orders(sides)):
        enough = time.process_time() - began > ENOUGH_SECONDS
        if turn >= MOST * least or (turn >= least and enough):
            break
        tell(f"round {turn + 1}")
        for name in names:
            seconds[name].append(sides[name].scale * _timed(sides[name], calls))
    gc.unfreeze()
    return seconds


def _timed(side: Side, calls: int) -> float:
    taken = 0.0
    for _ in range(calls):
        side.prepare()
        began = time.process_time()
        side.step()
        taken += time.process_time() - began
    return taken / calls


def _orders(names: Iterable[str]) -> Iterator[list[str]]:
    """Another order for each round, in which nobody steps twice in a row, with warm caches."""
    names, rng = list(names), random.Random(0)  # noqa: S311 - no secret
    last = ""
    while True:
        rng.shuffle(names)
        if names[0] == last and len(names) > 1:
            names.append(names.pop(0))
        last = names[-1]
        yield list(names)
