"""How codes and figures are said to a practitioner: one wording for terminal, page and service."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

BASIS = {
    "probe": "Measured by short trainings of your model",
    "prior": "From recorded tasks, without measuring yours",
}

CODES = {
    "too_few_steps": (
        "The training is too short to compare candidates, so only the stability of the instant "
        "answer was checked."
    ),
    "noise_exceeds_gap": (
        "The best two were closer than the noise of the comparison, so either may be better."
    ),
    "default_leads": "Keras' default led, so the advice is to stay with it.",
    "plateau_no_signal": (
        "The short trainings had learned too little by their end to tell candidates apart."
    ),
    "budget_exhausted": "The budget ended before two candidates could be compared.",
    "blocking_finding": "Something has to be mended first, so nothing was raced.",
}

# What evidence other than "measured" lacks.
EVIDENCE = {
    "prior": "No short trainings were compared: the answer rests on recorded tasks.",
    "synthetic": (
        "Short trainings ran on data drawn from your description, not on your data: the odds are "
        "pulled half-way to even and the interval is twice as wide."
    ),
}

# Codes that end a comparison by rule, whatever the short trainings say.
RULES = ("budget_exhausted", "blocking_finding")

PURPOSES = {
    "sanity": "First checks: does the loss compute, can one batch be learned by heart",
    "range_test": "Learning-rate range test: where training breaks",
    "diagnostics": "Measuring gradients and curvature for the checks",
    "parity": "Comparing losses on two backends",
    "trial": "Trying optimizers on all examples as one minibatch",
    "stability": "Watching whether the advised rate is stable",
    "mending": "Testing changes to model and data",
}
RUNG = "rung_"
DEFAULTS = "the default's"
# A smaller change of a loss is none.
LEAST_CHANGE = 0.0005
# Beyond it a multiple of the default's loss says no more than "far above".
LARGEST_RATIO = 10.0


def purpose(name: str) -> str:
    """What gradients were spent on, from the account's name for it."""
    if name.startswith(RUNG):
        return f"Race to step {name.removeprefix(RUNG)}, with cooldown and validation"
    return PURPOSES.get(name, name.replace("_", " ").capitalize())


def odds(expected: Mapping[str, Any]) -> str:
    """The chance of beating the default, from `Forecast.to_dict`."""
    return (
        f"Odds of beating Keras' default: {expected['p_beats_default']:.0%}, from "
        f"{expected['tasks']} recorded tasks ({expected['confidence']} confidence)."
    )


def verdict(expected: Mapping[str, Any]) -> str:
    """The chance of beating the default as the end of a sentence, from `Forecast.to_dict`."""
    return (
        f"the odds of beating Keras' default are {expected['p_beats_default']:.0%} "
        f"({expected['confidence']} confidence, from {expected['tasks']} recorded tasks)."
    )


def grounds(decision: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What each reason rests on, "probe", "prior" or "rule", and the reason.

    Args:
        decision: From `Decision.to_dict`. Its last reason is why the answer was tried at all.
    """
    code, (*measured, tried) = decision["code"], decision["reasons"]
    found = [("rule" if code in RULES else "probe", text) for text in measured]
    if code is not None:
        found.append(("rule", CODES[code]))
    return [*found, ("prior" if "recorded tasks" in tried else "rule", tried)]


def headline(expected: Mapping[str, Any]) -> str:
    """Chance and size of the gain in one sentence, from `Forecast.to_dict`."""
    return (
        f"The odds of beating Keras' default are {expected['p_beats_default']:.0%}; the best "
        f"validation loss to expect is {against(expected['loss_ratio'][1], DEFAULTS)}."
    )


def interval(expected: Mapping[str, Any]) -> str:
    """Where the best validation loss will lie, from `Forecast.to_dict`."""
    low, middle, high = expected["loss_ratio"]
    return (
        f"In 8 of 10 cases the best validation loss ends between {_times(low)} and {_times(high)} "
        f"times the default's, in the middle at {_times(middle)} times ({distance(middle)})."
    )


def pace(expected: Mapping[str, Any]) -> str:
    """How soon the default's level is reached, from `Forecast.to_dict`."""
    ratio = expected["time_ratio"]
    if ratio is None:
        return "On most recorded tasks like this one it never got to the default's best loss."
    if ratio >= 1:
        return (
            "On recorded tasks like this one it needed, in the median, "
            f"{ratio:.2f} times the default's steps to get to the default's best loss."
        )
    return (
        "On recorded tasks like this one it got to the default's best loss, in the median, after "
        f"{ratio:.0%} of the default's steps."
    )


def distance(ratio: float) -> str:
    """How far a loss lies from another, from the one over the other."""
    change = ratio - 1
    if not math.isfinite(change):
        return "diverged"
    if abs(change) < LEAST_CHANGE:
        return "the same"
    if change >= 1:
        return f"{ratio:.1f} times as high"
    return f"{abs(change):.{1 if abs(change) < 0.1 else 0}%} {'lower' if change < 0 else 'higher'}"


def against(ratio: float, whose: str) -> str:
    """The same as a phrase: `12% lower than the default's`."""
    linked = "than" if distance(ratio).endswith(("lower", "higher")) else "as"
    return f"{distance(ratio)} {linked} {whose}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < LARGEST_RATIO else f"{LARGEST_RATIO:g} or more"


def reason(entry: Mapping[str, Any]) -> str:
    """Why a change is proposed: a sentence, or the code of the finding."""
    found = str(entry["reason"])
    return found if " " in found else found.replace("_", " ")


def effect(entry: Mapping[str, Any]) -> str:
    """What a proposed change did, from an entry of `architecture_advice`."""
    if "verdict" in entry:
        return str(entry["verdict"])
    found = entry["measured_effect"]
    if found is None:
        return "worse: training broke"
    if isinstance(found, str):
        return found
    return f"validation loss {distance(1 + found)}"


def schedule(recommended: Mapping[str, Any]) -> str:
    """The advised rate over the training, from the answer's field `recommended`."""
    rate, parts = recommended["learning_rate"], recommended["schedule"]
    if parts["shape"] == "constant":
        return f"Learning rate {rate:.4g} for all {recommended['total_steps']:,} steps."
    return (
        f"Learning rate {rate:.4g} for {parts['stable_steps']:,} steps, then in a straight line to "
        f"0 over the last {parts['decay_steps']:,} steps."
    )


def loss(value: float | None) -> str:
    """A loss in a table; None and infinity are a training that broke."""
    return "diverged" if value is None or not math.isfinite(value) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """A length of time, to two digits."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def spent(cost: Mapping[str, Any]) -> str:
    """What an advice has cost, from `Cost.to_dict`."""
    if not cost["gradient_evaluations"]:
        return "Nothing was trained."
    return (
        f"{cost['fraction_of_full']:.1%} of one full training (at most "
        f"{cost['limit_fraction']:.0%} were allowed): {cost['gradient_evaluations']:,.0f} gradient "
        f"evaluations in {duration(cost['seconds'])}, of which "
        f"{duration(cost['compile_seconds'])} went into compiling."
    )
