"""What an advice has cost, and what a larger tier has found on recorded tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recommender import words
from recommender.budget import SHARE, TIERS
from recommender.knowledge import odds
from recommender.presentation.document import Block, Row, Table, Text
from recommender.probes import LEAST_STEPS_TO_RACE

if TYPE_CHECKING:
    from recommender.report import Advice

# Fewer gradients than these say nothing about the speed of others.
ENOUGH_TO_TIME = 100
# Differences below these are none: of loss ratios, and of shares of tasks.
SAME_RATIO, SAME_SHARE = 0.002, 0.01


def bill(advice: Advice) -> tuple[Block, ...]:
    """Everything that was spent, by purpose."""
    cost = advice.cost
    total = Text(words.spent(cost.to_dict()))
    if not cost.by_purpose:
        return (total,)
    rows = [
        Row((words.purpose(name), f"{spent:,.0f}", f"{spent / advice.full_steps:.1%}"))
        for name, spent in cost.by_purpose.items()
    ]
    rows.append(Row(("Altogether", f"{cost.gradients:,.0f}", f"{cost.fraction_of_full:.1%}"), True))
    table = Table(
        f"One gradient is one training step; a full training has {advice.full_steps:,} of them",
        ("For", "Gradients", "Of one full training"),
        tuple(rows),
        frozenset({1, 2}),
    )
    return total, table


def more(advice: Advice) -> tuple[Block, ...]:
    """What each tier has found on recorded tasks as long as this one, and would take here."""
    long = advice.full_steps >= LEAST_STEPS_TO_RACE
    records = {tier: odds()[tier]["record"]["long" if long else "short"] for tier in TIERS}
    used = records[advice.tier]
    pace = seconds_per_gradient(advice)
    rows = []
    for tier in TIERS:
        record = records[tier]
        rows.append(
            Row(
                (
                    f"{tier}, used here" if tier == advice.tier else tier,
                    f"{record['cost']:.0%} ({SHARE[tier]:.0%})",
                    words.distance(record["loss_ratio"]),
                    f"{record['better']:.0%}",
                    f"{record['worse']:.0%}",
                    f"{1 - record['penalty']:.0%}",
                    _time(tier, record["cost"], advice, pace),
                ),
                marked=tier == advice.tier,
            )
        )
    scope = f"{'at least' if long else 'fewer than'} {LEAST_STEPS_TO_RACE:,} steps"
    table = Table(
        f"Every tier on the {used['tasks']} recorded tasks of {scope}",
        (
            "Tier",
            "Cost (limit)",
            "Median loss",
            "Better",
            "Worse",
            "Gain",
            "Here",
        ),
        tuple(rows),
        frozenset(range(1, 7)),
    )
    legend = (
        "Cost is in full trainings. Median loss is the best validation loss against the default's; "
        "Better and Worse are the shares of tasks where it was lower than the default's, and over "
        "1% higher. Gain is the share of what could be gained, which the best known configuration "
        "reaches. Each answer was given without knowing that kind of task, and judged by trainings "
        "that it had not seen."
    )
    return Text(_verdict(advice, records, pace)), table, Text(legend, quiet=True)


def seconds_per_gradient(advice: Advice) -> float | None:
    """How fast this very advice trained; None where it trained too little to tell."""
    cost = advice.cost
    if cost.gradients < ENOUGH_TO_TIME:
        return None
    return max(cost.seconds - cost.compile_seconds, 0.0) / cost.gradients


def _time(tier: str, share: float, advice: Advice, pace: float | None) -> str:
    if tier == advice.tier:
        return f"{words.duration(advice.cost.seconds)} (spent)"
    if not share:
        return "no training"
    if pace is None:
        return f"{share:.0%} of a training"
    return f"about {words.duration(share * advice.full_steps * pace)}"


def _verdict(advice: Advice, records: dict[str, Any], pace: float | None) -> str:
    """What those tiers found that are larger than the one used."""
    used = records[advice.tier]
    mine = (
        f"You used {advice.tier}, whose answers on recorded tasks ended, in the median, "
        f"{words.against(used['loss_ratio'], words.DEFAULTS)}."
    )
    larger = TIERS[TIERS.index(advice.tier) + 1 :]
    if not larger:
        return (
            f"{mine} It is the largest tier: what is left to gain takes other candidates "
            "(recommend(..., include=[...])) or several full trainings."
        )
    told = [_compared(tier, records[tier], used, advice, pace) for tier in larger]
    return " ".join([mine, *told])


def _compared(
    tier: str, record: dict[str, Any], used: dict[str, Any], advice: Advice, pace: float | None
) -> str:
    """One larger tier next to the one used."""
    here = f", here {_time(tier, record['cost'], advice, pace)}" if pace is not None else ""
    bought = []
    if used["loss_ratio"] - record["loss_ratio"] >= SAME_RATIO:
        bought.append("a lower loss")
    if used["worse"] - record["worse"] >= SAME_SHARE:
        bought.append(
            f"fewer answers over 1% worse than the default ({record['worse']:.0%} of tasks, "
            f"{advice.tier} {used['worse']:.0%})"
        )
    if used["penalty"] - record["penalty"] >= SAME_SHARE:
        bought.append(
            f"more of the possible gain ({1 - record['penalty']:.0%}, {advice.tier} "
            f"{1 - used['penalty']:.0%})"
        )
    return (
        f"{tier.capitalize()} (at most {SHARE[tier]:.0%} of a training{here}) ended "
        f"{words.distance(record['loss_ratio'])}: "
        f"{', '.join(bought) or 'nothing that shows was gained by it'}."
    )
