"""The process that probes for its own user on another backend than the user's process runs on.

    python -m recommender.executors.trusted_child MESSAGES FOLDER

It runs the stages on a request and a problem that the starter has packed, and sends what happens.
When its standard input ends, its starter is gone, and it ends itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import keras

from recommender.advise import advised
from recommender.budget import GRADIENT, Budget
from recommender.errors import BudgetExhausted
from recommender.executors import parity
from recommender.executors.child import end_with_starter
from recommender.executors.parcel import unpack
from recommender.memory import Memory
from recommender.population import Population, open_population
from recommender.problem import Problem
from recommender.progress import Progress
from recommender.settings import Setting

# Under which a journal holds that this backend gives the starter's losses.
AGREED = "parity"


def main() -> None:
    """Probe, and send the advice or what was raised."""
    messages = Connection(int(sys.argv[1]), readable=False)
    end_with_starter()
    try:
        advice = _advice(Path(sys.argv[2]), messages.send)
    except Exception as error:  # noqa: BLE001 - the starter decides what to do about it
        traceback.print_exc()
        messages.send(("raised", error))
    else:
        messages.send(("advice", advice))
    messages.close()


def _advice(folder: Path, send: Callable[[Any], None]) -> Any:
    keras_settings, request, problem, deadline, open_journal = unpack(folder)
    keras.config.set_floatx(keras_settings["floatx"])
    keras.config.set_image_data_format(keras_settings["image_data_format"])
    if deadline is not None:
        request = dataclasses.replace(request, max_seconds=max(1e-3, deadline - time.time()))
    send(("ready",))
    with contextlib.closing(open_journal()) as journal:
        opens = partial(_opened, memory=journal, folder=folder, send=send)
        advice = advised(request, relay(send), problem, opens)
        journal.finish()
    return advice


def _opened(
    problem: Problem,
    settings: Sequence[Setting],
    budget: Budget,
    hears: Progress,
    *,
    memory: Memory,
    folder: Path,
    send: Callable[[Any], None],
) -> Population:
    """The engine, once it has shown that it trains as the starter's does.

    The first steps of the hurdle's own trunk serve, so only the starter's are extra.
    """
    population = open_population(problem, settings, budget, hears, memory)
    with contextlib.suppress(BudgetExhausted):
        budget.spend("parity", parity.STEPS * GRADIENT + 2 * parity.block_price(population))
        seen = parity.seen(population)
        if memory.recall(AGREED) is None:
            send(("parity", seen))
            while not (folder / AGREED).exists():  # the starter ends this process otherwise
                time.sleep(0.02)
            memory.record(AGREED, value=True)
    return population


def relay(send: Callable[[Any], None]) -> Progress:
    """A listener that sends on whatever it hears; it answers nothing."""

    def sends(name: str) -> Callable[..., None]:
        return lambda _, *arguments: send(("heard", name, arguments))

    answers = {Progress.enough.__name__}
    told = {name for name in vars(Progress) if not name.startswith("_")} - answers
    methods = {name: sends(name) for name in told}
    listener: Progress = type("Relay", (Progress,), methods)()
    return listener


if __name__ == "__main__":
    main()
