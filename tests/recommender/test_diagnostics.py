"""Checks on models that have the illness."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest

from recommender.budget import Budget
from recommender.candidates import hurdle
from recommender.description import describe
from recommender.diagnostics import diagnose, follow_up, inspect, inspected
from recommender.mending import Effect, Outcome
from recommender.population import open_population
from tests.recommender.problems import data, problem


def classifier(activation: str | None) -> keras.Model:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation=activation)])


def labels(rows: int = 400) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, rows).astype("int32")


def codes(**changes: Any) -> list[str]:
    asked = problem(**changes)
    return [f.code for f in inspect(asked, describe(asked))]


def diagnosed(**changes: Any) -> Any:
    asked = problem(**changes)
    population = open_population(asked, [hurdle().setting], Budget("standard", asked.full_steps))
    return diagnose(asked, describe(asked), population, hurdle().setting)


@pytest.mark.parametrize(
    ("activation", "from_logits", "code"),
    [
        ("softmax", True, "squashed_twice"),
        (None, False, "logits_taken_for_probabilities"),
        ("softmax", False, None),
        (None, True, None),
    ],
)
def test_outputs_and_loss_must_agree(
    activation: str | None, from_logits: bool, code: str | None
) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    found = codes(model=classifier(activation), y=labels(), loss=loss)
    assert found == ([code] if code else [])


def test_features_of_other_scales_ask_for_normalisation() -> None:
    x, y = data()
    assert "features_badly_scaled" in codes(x=x * np.array([1, 1e3, 1e3, 1], "float32"), y=y)
    assert codes() == []


def test_validation_rows_that_are_training_rows_are_seen() -> None:
    x, y = data()
    assert "validation_in_training" in codes(x=x, y=y, validation_data=(x[:100], y[:100]))


def test_a_model_that_cannot_learn_one_batch_is_blocked() -> None:
    dead = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                4, activation="relu", bias_initializer=keras.initializers.Constant(-100.0)
            ),
            keras.layers.Dense(1, use_bias=False),
        ]
    )
    findings = diagnosed(model=dead).findings
    assert findings[0].code == "cannot_overfit_one_batch"
    assert findings[0].blocking


def test_a_healthy_model_has_no_findings() -> None:
    healthy = diagnosed()
    assert healthy.findings == ()
    assert [rate for rate, _ in healthy.range_test] == pytest.approx([1e-3, 3e-3, 1e-2, 3e-2, 1e-1])
    asked = problem()
    error = asked.y_val - asked.model.predict(asked.x_val, verbose=0)
    assert healthy.initial_loss == pytest.approx(float(np.mean(error**2)), rel=1e-4)


def test_weights_that_never_move_are_named() -> None:
    inputs = keras.Input((4,))
    dead = keras.layers.Dense(
        4,
        activation="relu",
        bias_initializer=keras.initializers.Constant(-100.0),
        name="dead",
    )(inputs)
    joined = keras.layers.Concatenate()([inputs, dead])
    model = keras.Model(inputs, keras.layers.Dense(1)(joined))
    findings = diagnosed(model=model).findings
    assert [f.code for f in findings] == ["weights_without_gradient", "dead_units"]
    assert "dead" in findings[0].text


def test_outputs_are_judged_by_what_they_are_not_by_the_last_layer() -> None:
    inputs = keras.Input((4,))
    outputs = keras.ops.softmax(keras.layers.Dense(3)(inputs))
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy()
    assert codes(model=model, y=labels(), loss=loss) == []


def checked_and_followed(tier: str, asked: Any) -> tuple[Any, Budget]:
    budget = Budget(tier, asked.full_steps)
    population = open_population(asked, [hurdle().setting], budget)
    description = describe(asked)
    found = diagnose(asked, description, population, hurdle().setting)
    return follow_up(found, description, population, (), hurdle().setting), budget


def test_changes_carry_what_they_did_to_the_loss() -> None:
    x, y = data()
    sick = problem(x=x * np.array([1, 1e3, 1e3, 1], "float32"), y=y)
    found, budget = checked_and_followed("standard", sick)
    (outcome,) = [o for o in found.outcomes if o.mend.code == "features_badly_scaled"]
    plain = outcome.to_dict()
    assert plain["recommended"]
    assert plain["measured_effect"] == pytest.approx(outcome.effect.relative, abs=1e-4)
    assert outcome.effect.relative < -2 * outcome.effect.error
    assert f"{-outcome.effect.relative:.0%} lower" in plain["verdict"]
    assert budget.by_purpose["mending"] <= 4 * (outcome.effect.step + 10)


def test_what_was_worse_is_advised_against() -> None:
    x, y = data()
    sick = problem(x=x * np.array([1, 1e3, 1e3, 1], "float32"), y=y)
    mend = inspected(sick, describe(sick)).outcomes[0].mend
    worse = Outcome(mend, Effect(0.1, 0.01, 40, hurdle().setting))
    assert not worse.recommended
    assert worse.to_dict()["change"].startswith("Do not: ")
    assert "10% higher" in worse.verdict
    unsure = Outcome(mend, Effect(-0.1, 0.2, 40, hurdle().setting))
    assert not unsure.recommended
    assert "no effect seen" in unsure.verdict
    broken = Outcome(mend, Effect(float("inf"), 0.0, 40, hurdle().setting))
    assert broken.to_dict()["measured_effect"] is None
    assert not broken.recommended
    assert Outcome(mend, untried="the budget has no room").to_dict()["recommended"]
    doubtful = dataclasses.replace(mend, expected=0.0)
    assert not Outcome(doubtful, untried="the budget has no room").recommended
    assert Outcome(doubtful, Effect(-0.1, 0.01, 40, hurdle().setting)).recommended


@pytest.mark.parametrize(("tier", "share"), [("quick", 0.02), ("standard", 0.06)])
def test_checks_stay_within_their_share(tier: str, share: float) -> None:
    asked = problem()
    budget = Budget(tier, asked.full_steps)
    population = open_population(asked, [hurdle().setting], budget)
    found = diagnose(asked, describe(asked), population, hurdle().setting)
    # The first validation and the default's first steps are made for the race anyway.
    free = population.validation_price + population.trunk(hurdle().setting).step
    assert budget.spent <= share * asked.full_steps + free
    if tier == "quick":
        assert "diverges_easily" in found.skipped
