"""Trials of optimizers that evaluate the loss again: against closed forms, counts and the race."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import scipy.optimize

from recommender import RequestError, recommend, trials
from recommender.budget import Budget
from recommender.candidates import hurdle, propose
from recommender.contest import Contest, has_no_gradient, requested
from recommender.description import describe
from recommender.diagnostics import diagnose
from recommender.knowledge import contenders, prior
from recommender.population import Population, open_population
from recommender.problem import Problem, build
from recommender.request import Request, checked
from recommender.settings import Setting
from recommender.trials import Trial

ROWS, FEATURES, BATCH = 240, 5, 24
QUASI_NEWTON = Setting("lbfgs", 1.0, contenders.QUASI_NEWTON)
LEAST_SQUARES = Setting("levenberg_marquardt", 1.0)


class Step(keras.layers.Layer):
    """1 where the input is above 0, else 0: a gradient of zero everywhere."""

    def call(self, x: Any) -> Any:
        return keras.ops.cast(x > 0, "float32")


def features(seed: int = 0, count: int = FEATURES) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, count)).astype("float32")


def linear(penalty: float = 0.0, outputs: Any = None, count: int = FEATURES) -> keras.Model:
    """One layer whose first weights are known."""
    layer = keras.layers.Dense(
        1, kernel_regularizer=keras.regularizers.L2(penalty) if penalty else None
    )
    net = keras.Sequential([keras.Input((count,)), layer, *([outputs] if outputs else [])])
    layer.kernel.assign(np.linspace(-0.5, 0.5, count).reshape(count, 1))
    return net


def problem(net: keras.Model, x: np.ndarray, y: np.ndarray, loss: Any, epochs: int) -> Problem:
    """Trained and validated on the same examples, so that the closed form is the optimum."""
    given = Request(net, x, y, (x, y), loss=loss, epochs=epochs, batch_size=BATCH)
    return build(checked(given))


def opened(what: Problem, tier: str = "thorough") -> Population:
    return open_population(what, [hurdle().setting], Budget(tier, what.full_steps))


def tried(what: Problem, setting: Setting, allowance: float | None = None) -> Trial:
    return trials.run(opened(what), setting, what.full_steps if allowance is None else allowance)


def least_squares() -> tuple[np.ndarray, np.ndarray]:
    x = features()
    noise = np.random.default_rng(1).normal(size=(ROWS, 1))
    return x, (x @ np.arange(1.0, 6.0)[:, None] - 2 + 0.3 * noise).astype("float32")


def step_data() -> tuple[np.ndarray, np.ndarray]:
    """Classes on either side of a line that no first weights know."""
    x = features(count=2)
    return x, (x @ np.array([[-2.0], [1.0]]) > 0.3).astype("float32")


# --- what a trial comes to ---


@pytest.mark.parametrize("setting", [QUASI_NEWTON, LEAST_SQUARES], ids=lambda s: s.method)
@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_least_squares_end_in_the_closed_form_and_below_the_default(
    setting: Setting, penalty: float
) -> None:
    if penalty and setting is LEAST_SQUARES:
        pytest.skip("a penalty is no mean squared error")
    x, y = least_squares()
    what = problem(linear(penalty), x, y, "mse", epochs=100)
    trial = tried(what, setting)
    # mean((Xw + b - y)^2) + penalty |w|^2, the bias not penalised, solved in float64.
    a = np.hstack([x, np.ones((ROWS, 1))]).astype("float64")
    bent = a.T @ a / ROWS + penalty * np.diag([1.0] * FEATURES + [0.0])
    w = np.linalg.solve(bent, a.T @ y / ROWS)
    if not penalty:
        np.testing.assert_allclose(w, np.linalg.lstsq(a, y, rcond=None)[0], rtol=1e-8)
    best = float(np.mean((a @ w - y) ** 2) + penalty * np.sum(w[:-1] ** 2))
    assert trial.best is not None
    # Sums of float32 keep six digits.
    assert trial.best.loss == pytest.approx(best, rel=2e-5)
    assert trial.converged
    population = opened(what)
    steps = round(trial.best.cost)
    probe = population.rung(hurdle().setting, steps, round(0.75 * steps))
    assert trial.best.loss < 0.5 * float(np.mean(probe))


def test_logistic_regression_ends_where_scipy_s_does() -> None:
    x = features()
    chance = 1 / (1 + np.exp(-(x @ np.array([1.0, -2.0, 0.5, 0.0, 1.0]) - 0.5)))
    y = (np.random.default_rng(2).uniform(size=ROWS) < chance).astype("float32")[:, None]
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    trial = tried(problem(linear(), x, y, loss, epochs=200), QUASI_NEWTON)
    wide, sign = x.astype("float64"), 2 * y[:, 0] - 1

    def value(w: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, -sign * (wide @ w[:-1] + w[-1]))))

    found = scipy.optimize.minimize(value, np.zeros(FEATURES + 1), method="BFGS", tol=1e-9)
    assert trial.best is not None
    assert trial.best.loss == pytest.approx(found.fun, rel=2e-5)


def test_the_same_trial_twice_is_the_same() -> None:
    what = problem(linear(), *least_squares(), "mse", epochs=40)
    first, second = (tried(what, QUASI_NEWTON) for _ in range(2))
    assert first.points == second.points
    assert first.cost == second.cost


def test_an_optimizer_that_refuses_the_model_is_a_result() -> None:
    x, y = least_squares()
    trial = tried(problem(linear(), x, y, "mae", epochs=40), LEAST_SQUARES)
    assert "needs loss='mse'" in trial.stopped
    assert not trial.converged


# --- what a trial costs ---


def test_evaluations_are_those_counted_by_hand() -> None:
    what = problem(linear(), *least_squares(), "mse", epochs=40)
    trial = tried(what, LEAST_SQUARES, allowance=4.0)
    # One step, which solves it: a gradient, the loss there, a product with the Gauss-Newton
    # matrix at 2 for each of 6 parameters, and the loss at the only attempt; of ten minibatches.
    assert trial.points[-1].steps == 1
    assert trial.cost == pytest.approx((1 + 1 / 3 + 2 * 6 + 1 / 3) * ROWS / BATCH)


def test_losses_of_a_population_are_counted_too() -> None:
    what = problem(linear(), *least_squares(), "mse", epochs=40)
    setting = Setting("cma_es", 1.0, (("population_size", 7),))
    trial = tried(what, setting, allowance=100.0)
    each = (1 + 7) / 3 * ROWS / BATCH
    # Steps are begun while anything of the allowance is left.
    validations = len(trial.points) * ROWS / BATCH / 3
    assert trial.cost == pytest.approx(trial.points[-1].steps * each)
    assert 100 <= trial.cost + validations < 100 + each + 2 * ROWS / BATCH / 3


def test_all_that_was_spent_is_booked() -> None:
    what = problem(linear(), *least_squares(), "mse", epochs=40)
    population = opened(what)
    trial = trials.run(population, QUASI_NEWTON, what.full_steps)
    forward = len(trial.points) * population.validation_price
    assert population.budget.spent == pytest.approx(trial.cost + forward, rel=1e-5)
    assert dict(population.budget.by_purpose) == {trials.PURPOSE: population.budget.spent}


@pytest.mark.parametrize("limit", [0.0, 1.0, 30.0, 230.0, 250.0, 400.0])
def test_no_budget_is_overrun(limit: float) -> None:
    net = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(6, "tanh"), keras.layers.Dense(1)]
    )
    what = problem(net, *least_squares(), "mse", epochs=40)
    population = opened(what)
    population.budget.limit = limit
    trial = trials.run(population, QUASI_NEWTON, limit)
    assert population.budget.spent <= limit
    # 4/3 and 5 searches of at most 4 gradients, and a validation before and after the step.
    affordable = limit >= (4 / 3 + 20 + 2 / 3) * ROWS / BATCH
    assert bool(trial.cost) == affordable


def test_no_step_begins_after_the_last_second() -> None:
    what = problem(linear(), *least_squares(), "mse", epochs=40)
    now = [0.0]
    budget = Budget("thorough", what.full_steps, max_seconds=5, clock=lambda: now[0])
    population = open_population(what, [hurdle().setting], budget)
    now[0] = 5.0
    trial = trials.run(population, QUASI_NEWTON, what.full_steps)
    assert trial.points == ()
    assert "of 5 seconds are used" in trial.stopped


# --- where trials are made ---


def cnn() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    layers: list[Any] = [
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10),
    ]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 28, 28, 1)).astype("float32")
    return keras.Sequential(layers), x, rng.integers(0, 10, 64)


@pytest.mark.parametrize("tier", ["quick", "standard", "thorough"])
def test_nothing_is_tried_on_a_convolutional_network(tier: str) -> None:
    net, x, y = cnn()
    what = build(checked(Request(net, x, y, epochs=2000, batch_size=32)))
    contest = Contest(opened(what, tier), describe(what))
    assert contest.candidates == []
    assert contest.reserve == 0


@pytest.mark.parametrize(
    ("epochs", "tiers"),
    [(20, []), (60, ["thorough"]), (250, ["standard", "thorough"]),
     (800, ["quick", "standard", "thorough"])],
)  # fmt: skip
def test_trials_need_a_training_of_many_passes(epochs: int, tiers: list[str]) -> None:
    what = problem(linear(), *least_squares(), "mse", epochs=epochs)
    facts = describe(what).to_dict()
    assert contenders.passes(facts) == epochs
    found = [tier for tier in contenders.RESERVE if contenders.plausible(facts, tier)]
    assert found == tiers


def test_a_loss_without_gradient_is_seen_and_one_with_is_not() -> None:
    flat = problem(linear(outputs=Step(), count=2), *step_data(), "mse", epochs=100)
    fine = problem(linear(), *least_squares(), "mse", epochs=100)
    for what, expected in ((flat, True), (fine, False)):
        population, facts = opened(what), describe(what)
        settings = [hurdle().setting]
        found = diagnose(what, facts, population, settings[0], settings).findings
        assert Contest(population, facts, found).flat is expected


# Where gradients may be missing Keras says so, and leaves those weights out of the step.
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_hidden_threshold_leaves_most_weights_without_gradient() -> None:
    layers = [keras.Input((FEATURES,)), keras.layers.Dense(8), Step(), keras.layers.Dense(1)]
    population = opened(problem(keras.Sequential(layers), *least_squares(), "mse", epochs=100))
    population.trunk(hurdle().setting).advance(5, "sanity")
    # 48 of 57 numbers lie before the threshold.
    assert has_no_gradient(population)


# --- the advice ---


def test_a_trial_wins_least_squares_and_the_code_trains() -> None:
    x, y = least_squares()
    found = recommend(
        linear(), x, y, (x, y), loss="mse", epochs=250, batch_size=BATCH, tier="standard",
        progress=False,
    )  # fmt: skip
    chosen = found.decision.candidate
    assert chosen.role == "trial"
    assert found.cost.fraction_of_full <= 0.5
    assert found.cost.by_purpose[trials.PURPOSE] > 0
    answer = found.to_dict()["recommended"]
    assert answer["fit"] == {"batch_size": ROWS, "epochs": chosen.fit.epochs}
    assert answer["total_steps"] == chosen.fit.epochs
    # What the answer's comments say is what trains.
    names: dict[str, Any] = {"model": linear(), "x": x, "y": y, "loss": "mse"}
    exec(found.code.replace("# model", "model"), names)  # noqa: S102 - our own text is tested
    a = np.hstack([x, np.ones((ROWS, 1))]).astype("float64")
    best = np.mean((a @ np.linalg.lstsq(a, y, rcond=None)[0] - y) ** 2)
    trained = names["model"].evaluate(x, y, verbose=0, batch_size=ROWS)
    # It stops where validation was best, which is the end but for rounding.
    assert trained == pytest.approx(best, rel=1e-4)


def test_a_model_of_thresholds_is_trained_without_gradients() -> None:
    x, y = step_data()
    found = recommend(
        linear(outputs=Step(), count=2), x, y, loss="mse", epochs=400, batch_size=BATCH,
        tier="standard", progress=False,
    )  # fmt: skip
    assert found.decision.candidate.setting.method == "cma_es"
    assert any(f.blocking for f in found.diagnostics.findings)
    shown = [r for r in found.results if r.setting == found.decision.candidate.setting]
    # One of 48 held out is 0.021: at most two are on the wrong side.
    assert min(rung.loss for rung in shown[0].rungs) < 0.045
    assert found.cost.fraction_of_full <= 0.5


def test_a_requested_one_is_tried_and_is_no_probe_of_the_race() -> None:
    assert [c.setting.method for c in requested(["adamw", "l_bfgs"])] == ["l_bfgs"]
    outlook = prior.shipped().about(
        describe(problem(linear(), *least_squares(), "mse", epochs=100)).to_dict()
    )
    assert all(c.setting.method != "l_bfgs" for c in propose(outlook, ["l_bfgs"]))
    found = recommend(
        linear(), *least_squares(), loss="mse", epochs=250, batch_size=BATCH, tier="standard",
        include=["l_bfgs"], progress=False,
    )  # fmt: skip
    roles = {c.setting.method: c.role for c in found.candidates}
    assert roles["l_bfgs"] == "trial"
    assert any(r.setting.method == "l_bfgs" and r.rungs for r in found.results)


@pytest.mark.parametrize(
    ("name", "code"), [("svrg", "needs_bind"), ("hybrid", "unsupported_optimizer")]
)
def test_what_no_trial_can_make_is_refused(name: str, code: str) -> None:
    with pytest.raises(RequestError, match="Leave it out of include") as error:
        requested([name])
    assert error.value.code == code


def test_the_instant_answer_only_mentions_it() -> None:
    found = recommend(
        linear(), *least_squares(), loss="mse", epochs=250, tier="instant", progress=False
    )
    assert found.cost.gradients == 0
    assert found.decision.candidate.role != "trial"
    assert [c.role for c in found.candidates].count("trial") == 1
