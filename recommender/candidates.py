"""propose(...): a short ordered list of what to try, each with its reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recommender.errors import RequestError
from recommender.knowledge import portfolio
from recommender.settings import Setting, optimizer_class

Shape = Literal["constant", "late_cooldown"]
# Different constant-rate runs that a tier can afford to start (the default's included).
WIDTH = {"quick": 3, "standard": 7, "thorough": 12}


@dataclass(frozen=True)
class Candidate:
    """One answer that may be given.

    Attributes:
        setting: Optimizer and peak rate.
        shape: Constant, or constant with a cooldown to 0 over the last quarter.
        role: "default" (the hurdle), "safe", "portfolio", or "requested" by the caller.
        prior: How well it has done elsewhere, for ordering; above 0.
        reason: Why it is tried.
    """

    setting: Setting
    shape: Shape
    role: Literal["default", "safe", "portfolio", "requested"]
    prior: float
    reason: str

    @property
    def label(self) -> str:
        """The candidate in a few words."""
        return labelled(self.setting.label, self.shape)

    def to_dict(self, label: str) -> dict[str, Any]:
        """The candidate as plain data, ready for JSON, under this label."""
        return {"label": label, "role": self.role, "reason": self.reason}


def labelled(setting: str, shape: Shape) -> str:
    """A setting's label with the schedule's shape."""
    return setting + (", late cooldown" if shape == "late_cooldown" else "")


def default_setting() -> Setting:
    """Keras' default optimizer and rate: the hurdle."""
    return _setting(portfolio()["default"])


def blind_choice() -> Candidate:
    """What is advised when nothing can be measured."""
    entry = portfolio()["instant"]
    return Candidate(
        _setting(entry), "late_cooldown", "portfolio", 1.0, "the strongest choice without looking"
    )


def hurdle() -> Candidate:
    """Keras' default as a candidate."""
    return Candidate(
        default_setting(), "constant", "default", 1.0, "Keras' own default, the hurdle"
    )


def safe_answer() -> Candidate:
    """The default's own run until a late cooldown: it can hardly be much worse."""
    reason = "the default's own run with a late cooldown: the answer when evidence is weak"
    return Candidate(default_setting(), "late_cooldown", "safe", 1.0, reason)


def propose(tags: Collection[str], tier: str, include: Sequence[str] = ()) -> list[Candidate]:
    """The candidates for a problem.

    Args:
        tags: Words for the problem (`recommender.tags`); they move the portfolio's priors.
        tier: How many runs there may be.
        include: Optimizers by name that must be tried, at their own default rate.

    Returns:
        The hurdle, the safe answer, requested ones, then the portfolio in order of prior.

    Raises:
        RequestError: A requested name is unknown, or cannot be probed.
    """
    found = [hurdle(), safe_answer(), *(_requested(name) for name in include)]
    listed = [
        Candidate(
            _setting(entry), "late_cooldown", "portfolio", _prior(entry, tags),
            entry["reason"],
        )
        for entry in portfolio()["portfolio"]
    ]  # fmt: skip
    listed.sort(key=lambda c: -c.prior)
    room = max(0, WIDTH.get(tier, 2) - len({c.setting for c in found}))
    return [*found, *[c for c in listed if c.setting not in {f.setting for f in found}][:room]]


def listed_settings() -> list[Setting]:
    """Everything that the portfolio may make a candidate of."""
    entries = [portfolio()["default"], portfolio()["instant"], *portfolio()["portfolio"]]
    return [_setting(entry) for entry in entries]


def _setting(entry: dict[str, Any]) -> Setting:
    return Setting(
        entry["method"], float(entry["learning_rate"]), tuple(sorted(entry["config"].items()))
    )


def _prior(entry: dict[str, Any], tags: Collection[str]) -> float:
    prior = float(entry["prior"])
    for tag, factor in entry.get("tags", {}).items():
        if tag in tags:
            prior *= factor
    return prior


def _requested(name: str) -> Candidate:
    cls = optimizer_class(name)
    if cls.needs != "gradient":
        raise RequestError(
            f"{cls.__name__} evaluates the loss again and needs keras_gradopt.bind(model); probes "
            "run optimizers that need gradients only. Leave it out of include.",
            code="needs_bind",
        )
    defaults = cls.argument_defaults()
    if "learning_rate" not in defaults:
        raise RequestError(
            f"{cls.__name__} wraps another optimizer and cannot be probed by name. Leave it out "
            "of include.",
            code="unsupported_optimizer",
        )
    setting = Setting(name, float(defaults["learning_rate"]))
    return Candidate(setting, "late_cooldown", "requested", 0.5, "asked for by the caller")
