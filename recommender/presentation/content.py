"""document(advice): an advice in words and figures, in the order a reader asks for them."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from recommender import answer, words
from recommender.diagnostics import blocking
from recommender.knowledge import prior
from recommender.presentation import race, spending
from recommender.presentation.document import (
    Block,
    Code,
    Document,
    Interval,
    Items,
    Rates,
    Row,
    Section,
    Table,
    Text,
)

if TYPE_CHECKING:
    from recommender.report import Advice


def document(advice: Advice) -> Document:
    """Everything that a report shows.

    Args:
        advice: Any advice, raced or not.
    """
    plain = advice.to_dict()
    return Document(
        _title(advice),
        (Text(_lead(advice)), Text(words.schedule(plain["recommended"]))),
        Code(advice.code),
        (
            Section("expect", "What to expect", _expectation(advice, plain)),
            Section("certainty", "How sure this is", _certainty(advice)),
            Section("mend", "First mend" if _broken(advice) else "What to mend", _mending(plain)),
            Section("race", "The race", race.course(advice)),
            Section("schedule", "The advised learning rate", _schedule(advice, plain)),
            Section("alternatives", "Alternatives", race.alternatives(advice)),
            Section("nearest", "Recorded tasks most like yours", _nearest(advice)),
            Section("cost", "What this advice cost", spending.bill(advice)),
            Section("budget", "What more budget would buy", spending.more(advice)),
        ),
    )


def summary(advice: Advice) -> str:
    """A few lines of plain text: the answer, its odds, its price."""
    lead = [_title(advice), _lead(advice)]
    return "\n".join([*lead, f"Cost: {words.spent(advice.cost.to_dict())}", "", advice.code])


def _title(advice: Advice) -> str:
    label = advice.decision.candidate.label
    return f"Mend this first, then train with {label}" if _broken(advice) else f"Train with {label}"


def _broken(advice: Advice) -> list[Any]:
    return blocking(advice.diagnostics.findings) if advice.diagnostics else []


def _lead(advice: Advice) -> str:
    faults = _broken(advice)
    if faults:
        return faults[0].text
    if advice.decision.candidate.role == "default":
        return "This is Keras' own default: nothing that was tried promised more."
    return words.headline(advice.expected.to_dict())


def _expectation(advice: Advice, plain: dict[str, Any]) -> tuple[Block, ...]:
    if advice.decision.candidate.role == "default":
        return (Text("The advice is Keras' default itself, so nothing changes: no gain, no risk."),)
    expected = plain["expected"]
    low, middle, high = advice.expected.loss_ratio
    blocks: list[Block] = [
        Text(words.odds(expected)),
        Text(words.interval(expected)),
        Interval(low, middle, high),
        Text(words.pace(expected)),
    ]
    if _below_zero(advice):
        blocks.append(
            Text(
                "Losses of this model fall below 0, so all shares are of the size of the "
                "default's loss: 5% lower is lower by a twentieth of that size."
            )
        )
    return (*blocks, Text(f"Grounds: {expected['basis']}.", quiet=True))


def _below_zero(advice: Advice) -> bool:
    losses = [rung.loss for result in advice.results for rung in result.rungs]
    start = advice.diagnostics.initial_loss if advice.diagnostics else math.nan
    return any(loss <= 0 for loss in [*losses, start])


def _certainty(advice: Advice) -> tuple[Block, ...]:
    decision = advice.decision
    why = [words.CODES.get(decision.code, decision.code)] if decision.code else []
    if advice.evidence in words.EVIDENCE:
        why.append(words.EVIDENCE[advice.evidence])
    if decision.basis == "probe" and decision.share < 1:
        why.append(
            f"The longest comparison was a training of {decision.share:.0%} of the full length; "
            "what comes after that is foretold from recorded tasks."
        )
    if decision.candidate.choice not in prior.CHOICES:
        why.append(
            f"No recorded task was trained with {decision.candidate.setting.label}, so nothing "
            "says how such a start usually ends."
        )
    notes = tuple(note[:1].upper() + note[1:] for note in advice.notes)
    return (
        Text(f"Confidence: {advice.expected.confidence}. {words.BASIS[decision.basis]}:"),
        Items(decision.reasons),
        *((Text("Why not surer:"), Items(tuple(why))) if why else ()),
        *((Text("Notes:"), Items(notes)) if notes else ()),
    )


def _mending(plain: dict[str, Any]) -> tuple[Block, ...]:
    """Findings, blocking ones first, and what changes to model and data came to."""
    warnings, changes = plain["warnings"], plain["architecture_advice"]
    urgent = tuple(one["text"] for one in warnings if one["blocking"])
    minor = tuple(one["text"] for one in warnings if not one["blocking"])
    blocks: list[Block] = []
    if urgent:
        blocks.append(Items(urgent, urgent=True))
    if minor:
        blocks.append(Items(minor))
    if changes:
        rows = [
            Row((one["change"], words.effect(one), words.reason(one)), marked=_pays(one))
            for one in sorted(changes, key=_promise)
        ]
        caption = "Changes to model, data or training, and what a short training with them came to"
        blocks.append(Table(caption, ("Change", "Measured effect", "Why"), tuple(rows)))
    if not blocks:
        looked = "The checks found" if plain["evidence"]["diagnostics"] else "No checks were made:"
        blocks.append(Text(f"{looked} nothing to mend."))
    return tuple(blocks)


def _pays(change: dict[str, Any]) -> bool:
    effect = change["measured_effect"]
    lower = isinstance(effect, (int, float)) and effect < 0
    return lower and bool(change.get("recommended", True))


def _promise(change: dict[str, Any]) -> tuple[bool, bool, float]:
    """What is advised comes first, of that what was measured, of that the largest gain."""
    effect = change["measured_effect"]
    measured = isinstance(effect, (int, float))
    return not change.get("recommended", True), not measured, effect if measured else 0.0


def _schedule(advice: Advice, plain: dict[str, Any]) -> tuple[Block, ...]:
    peak = advice.decision.candidate.setting.learning_rate
    parts = answer.schedule_parts(advice.decision.candidate.shape, advice.full_steps)
    ends = [0, *itertools.accumulate(parts.values())] if parts else [0, advice.full_steps]
    rates = [0.0, peak, peak, 0.0] if parts else [peak, peak]
    points = dict(zip(ends, rates, strict=True))
    stretch = (
        "For a training of another length, advice.optimizer(total_steps=...) stretches it."
        if parts
        else "It is constant, so a longer or shorter training needs nothing else."
    )
    return (
        Text(f"{words.schedule(plain['recommended'])} {stretch}"),
        Rates(tuple(points.items())),
    )


def _nearest(advice: Advice) -> tuple[Block, ...]:
    if not advice.nearest:
        return (Text("No recorded task was looked at."),)
    known, choice = prior.shipped(), advice.decision.candidate.choice
    label = advice.decision.candidate.label
    rows = []
    for name, summary_, weight in advice.nearest:
        there = "not measured there"
        if name in known.tasks and choice in known.choices:
            excess = known.excess[known.tasks.index(name), known.choices.index(choice)]
            if math.isfinite(excess):
                there = words.distance(1 + excess)
        rows.append(Row((summary_ or name, f"{weight:.1%}", there)))
    table = Table(
        f"What {label} came to on them: its best loss against the default's",
        ("Task", "Weight", "Best loss"),
        tuple(rows),
        frozenset({1, 2}),
    )
    return Text(f"Your task looks like these to the recommender: {_own(advice)}"), table


def _own(advice: Advice) -> str:
    """The task at hand as its description sees it."""
    seen = advice.description.to_dict()
    layers = ", ".join(f"{count} {name}" for name, count in seen["layers"].items())
    shape = " x ".join(str(size) for size in seen["input_shape"]) or "single numbers"
    kind = f"{seen['task']} into {seen['classes']}" if seen["classes"] else str(seen["task"])
    return (
        f"{kind}; {seen['parameters']:,} weights in {layers or 'no named layers'}; "
        f"{seen['samples']:,} training examples of {shape}; {seen['full_steps']:,} steps of "
        f"{seen['batch_size']} examples. They weigh most, and all other recorded tasks the rest."
    )
