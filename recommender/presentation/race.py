"""The race and those who lost it: who got how far, and what speaks for and against each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from recommender import words
from recommender.candidates import Candidate
from recommender.knowledge import state_multiple
from recommender.presentation.document import Block, Curves, Row, Table, Text
from recommender.probes import ProbeResult
from recommender.settings import Setting
from recommender.standing import standings
from recommender.statistics import paired_difference

if TYPE_CHECKING:
    from recommender.report import Advice

# Alternatives that are shown; the table of the race holds all that were tried.
SHOWN = 5
# A difference of expected gains below this share is none.
SAME_GAIN = 0.02


def course(advice: Advice) -> tuple[Block, ...]:
    """What was trained, how it went, and why each one stopped."""
    results, tried = parted(advice)
    if not advice.results:
        why = words.CODES.get(advice.decision.code or "", "The answer rests on recorded tasks.")
        return (Text(f"No short training was made. {why}"),)
    steps = sorted({rung.step for result in results for rung in result.rungs})
    blocks: list[Block] = [Text(_account(results, steps, advice.full_steps))] if results else []
    if any(result.losses or result.rungs for result in results):
        blocks.append(Curves(results))
    priors = _priors(advice)
    promises = sorted(priors.values())
    rows = []
    for place, result in enumerate(ranked(advice), 1):
        prior = priors.get(result.setting)
        expected = "unknown" if prior is None else f"{_gain(prior)}, {promises.index(prior) + 1}."
        cells = (
            result.setting.label,
            *(_at(result, step) for step in steps),
            *([f"{place}." if _held(result) else "-"] if steps else []),
            expected,
            _end(result, advice, steps),
        )
        chosen = result.setting == advice.decision.candidate.setting
        rows.append(Row(cells, marked=chosen, series=results.index(result)))
    shares = (f"Step {step:,}\n({step / advice.full_steps:.0%})" for step in steps)
    placed = ("Place",) if steps else ()
    columns = ("Candidate", *shares, *placed, "Before", "How far it went, and why it stopped")
    caption = "Short trainings, the best place first, with the validation loss at each length"
    remark = (
        "Before the race, candidates stood by their record on tasks like this one: the share of "
        "the possible gain (0% is Keras' default, 100% the best that is known), and the place by "
        "it."
    )
    if steps:
        remark += (
            " The place after the race weighs that record against the losses, which count the "
            "more the longer the trainings were."
        )
    numbers = frozenset(range(1, len(columns) - 1))
    blocks += [Table(caption, columns, tuple(rows), numbers), Text(remark, quiet=True)]
    return (*(blocks if results else ()), *_trials(tried, advice.full_steps))


def parted(advice: Advice) -> tuple[tuple[ProbeResult, ...], tuple[ProbeResult, ...]]:
    """The race, and the trials: on all examples as one minibatch, so their steps are others."""
    apart = {c.setting for c in advice.candidates if c.role == "trial"}
    raced = tuple(r for r in advice.results if r.setting not in apart)
    return raced, tuple(r for r in advice.results if r.setting in apart)


def _trials(tried: tuple[ProbeResult, ...], full_steps: int) -> tuple[Block, ...]:
    """What each trial reached at what cost."""
    if not tried:
        return ()
    rows = []
    for result in tried:
        last = result.rungs[-1] if result.rungs else None
        cost = f"{last.step / full_steps:.1%}" if last else "-"
        loss = words.loss(last.loss) if last else "-"
        rows.append(Row((result.setting.label, loss, cost, result.stopped)))
    columns = ("Optimizer", "Best validation loss", "Reached at a cost of", "Why it stopped")
    caption = "Trained on all examples as one minibatch; costs in full trainings"
    return (Table(caption, columns, tuple(rows), frozenset((1, 2))),)


def alternatives(advice: Advice) -> tuple[Block, ...]:
    """The next best, each with what speaks for it and against it."""
    chosen = advice.decision.candidate
    after, results = standing(advice), {r.setting: r for r in advice.results}

    def place(one: Candidate) -> tuple[int, float]:
        rungs = results[one.setting].rungs if one.setting in results else ()
        return -rungs[-1].step if rungs else 0, after.get(one.setting, one.prior)

    others = sorted((c for c in advice.candidates if c != chosen), key=place)
    if not others:
        return (Text("Nothing else was considered."),)
    rows = []
    for one in others[:SHOWN]:
        good, bad = _grounds(one, chosen, results)
        rows.append(Row((one.label, _sentence(good), _sentence(bad))))
    table = Table("The next best", ("Candidate", "For it", "Against it"), tuple(rows))
    left = len(others) - SHOWN
    return (table, Text(f"{left} more were considered.", quiet=True)) if left > 0 else (table,)


def standing(advice: Advice) -> dict[Setting, float]:
    """What each setting is expected to miss after its last comparison; infinite if it diverged."""
    priors = _priors(advice)
    found: dict[Setting, float] = {}
    raced, _ = parted(advice)
    for step in sorted({rung.step for result in raced for rung in result.rungs}):
        losses = {
            result.setting: rung.loss
            for result in raced
            for rung in result.rungs
            if rung.step == step and result.setting in priors
        }
        finite = [loss for loss in losses.values() if math.isfinite(loss)]
        start = advice.diagnostics.initial_loss if advice.diagnostics else math.nan
        start = start if math.isfinite(start) else max(finite, default=0.0)
        if losses:
            found |= standings(priors, losses, start, step / advice.full_steps)
    return found


def ranked(advice: Advice) -> list[ProbeResult]:
    """The probes, those that got furthest first, then by what they are expected to miss."""
    after = standing(advice)

    def place(result: ProbeResult) -> tuple[int, float, int]:
        last = result.rungs[-1].step if result.rungs else 0
        return -last, after.get(result.setting, math.inf), -len(result.losses)

    return sorted(parted(advice)[0], key=place)


def _priors(advice: Advice) -> dict[Setting, float]:
    found: dict[Setting, float] = {}
    for one in advice.candidates:
        found[one.setting] = min(one.prior, found.get(one.setting, math.inf))
    return found


def _account(results: tuple[ProbeResult, ...], steps: list[int], full_steps: int) -> str:
    """How many were in it, and how many were left at each rung."""
    if not steps:
        watched = max(len(result.losses) for result in results)
        return f"{_count(len(results))} watched, for at most {watched:,} steps; none were compared."
    parts = [f"{_count(len(results))} trained from the same first weights on the same batches"]
    for step in steps:
        stood = sum(rung.step == step for result in results for rung in result.rungs)
        parts.append(f"{stood} went on to step {step:,} ({step / full_steps:.0%} of the training)")
    return (
        f"{'; '.join(parts)}. Each validation loss is that of a copy whose learning rate was "
        "brought down to 0 first, so that it shows what a whole training of that length would end "
        "with."
    )


def _count(number: int) -> str:
    return "1 candidate was" if number == 1 else f"{number} candidates were"


def _at(result: ProbeResult, step: int) -> str:
    shown = [words.loss(rung.loss) for rung in result.rungs if rung.step == step]
    return shown[0] if shown else "-"


def _held(result: ProbeResult) -> bool:
    return bool(result.rungs) and math.isfinite(result.rungs[-1].loss)


def _end(result: ProbeResult, advice: Advice, steps: list[int]) -> str:
    """How far a probe went, and why no further."""
    step = result.rungs[-1].step if result.rungs else len(result.losses)
    if result.diverged_at is not None:
        share = result.diverged_at / advice.full_steps
        return f"{result.diverged_at:,} steps ({share:.1%}): then its loss was no longer finite"
    why = result.stopped
    if result.setting == advice.decision.candidate.setting and result.rungs:
        why = f"advised: {why}"
    elif why.startswith("place") and step != steps[-1]:
        why = f"left behind: {why}"
    if why.endswith(f"step {step}"):
        return why[:1].upper() + why[1:]
    return f"{step:,} steps ({step / advice.full_steps:.1%}): {why}"


def _gain(penalty: float | None) -> str:
    if penalty is None:
        return "unknown"
    return f"{round(100 * (1 - penalty))}%" if math.isfinite(penalty) else "diverged"


def _sentence(parts: list[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}" if text else "-"


def _grounds(
    one: Candidate, chosen: Candidate, results: Mapping[Setting, ProbeResult]
) -> tuple[list[str], list[str]]:
    """What speaks for an alternative, and against it, next to the advice."""
    good: list[str] = []
    bad: list[str] = []
    _measured(one, chosen, results, good, bad)
    gain = chosen.prior - one.prior
    if abs(gain) >= SAME_GAIN:
        on = "on recorded tasks like this one it reaches"
        than = f"{_gain(one.prior)} of the possible gain, the advice {_gain(chosen.prior)}"
        (good if gain > 0 else bad).append(f"{on} {than}")
    elif one.setting != chosen.setting:
        good.append("on recorded tasks like this one it did as well")
    ours, theirs = (
        state_multiple(each.setting.method, dict(each.setting.config)) for each in (chosen, one)
    )
    if ours is not None and theirs is not None and ours != theirs:
        side = good if theirs < ours else bad
        side.append(
            f"{'less' if theirs < ours else 'more'} memory: its state is {theirs:.2g} times the "
            f"weights, the advice's {ours:.2g} times"
        )
    if one.role == "default":
        good.append("it is what Keras does by itself")
    elif one.shape == "constant" and chosen.shape != "constant":
        good.append("it needs no length fixed beforehand")
    if one.role == "requested":
        good.append("you asked for it")
    return good, bad


def _measured(
    one: Candidate,
    chosen: Candidate,
    results: Mapping[Setting, ProbeResult],
    good: list[str],
    bad: list[str],
) -> None:
    """What the last comparison of the two showed."""
    if one.setting == chosen.setting:
        good.append("the same optimizer at the same rate")
        return
    if one.setting not in results or not results[one.setting].rungs:
        if chosen.setting in results and results[chosen.setting].rungs:
            bad.append("not measured here")
        return
    if results[one.setting].diverged_at is not None:
        bad.append("it diverged here")
        return
    theirs = {rung.step: rung.blocks for rung in results[one.setting].rungs}
    ours = {rung.step: rung.blocks for rung in getattr(results.get(chosen.setting), "rungs", ())}
    both = sorted(set(theirs) & set(ours))
    if not both:
        return
    step = both[-1]
    difference = paired_difference(theirs[step], ours[step])
    if not math.isfinite(difference.relative):
        (good if difference.relative > 0 else bad).append(f"one of both diverged by step {step:,}")
        return
    size = words.against(1 - difference.relative, "the advice's")
    if difference.clear:
        text = f"at step {step:,} its validation loss was {size}"
        (good if difference.gap > 0 else bad).append(text)
    else:
        good.append(
            f"at step {step:,} its validation loss was {size}, within the noise of the "
            "comparison: it may be as good"
        )
