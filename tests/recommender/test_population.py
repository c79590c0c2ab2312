"""The probe engine trains as Keras does."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from recommender.budget import Budget
from recommender.population import open_population
from recommender.settings import Setting
from tests.recommender.kinds import KINDS
from tests.recommender.problems import model, problem

SETTINGS = [
    Setting("adam", 0.01),
    Setting("sgd", 0.05, (("momentum", 0.9), ("nesterov", True))),
    Setting("prodigy", 1.0),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.label)
def test_it_equals_train_on_batch_step_for_step(setting: Setting) -> None:
    asked = problem(model=model(batch_norm=True))
    population = open_population(asked, SETTINGS, Budget("standard", asked.full_steps))
    rows = asked.batch_indices(0, 12)
    rates = np.linspace(1.0, 0.5, 12).astype("float32") * np.float32(setting.learning_rate)
    state, losses = population.train(population.start(setting), rates, rows, "test")

    net = model(batch_norm=True)
    net.compile(optimizer=setting.optimizer(), loss="mse")
    expected = []
    for rate, batch in zip(rates, rows, strict=True):
        net.optimizer.learning_rate = float(rate)
        net.reset_metrics()
        expected.append(float(net.train_on_batch(asked.x[batch], asked.y[batch])))
    # Twelve float32 steps in two programs.
    np.testing.assert_allclose(losses, expected, rtol=2e-4)
    shown = population.validate(state, "test")
    net.reset_metrics()
    kept = np.sort(population._validation)
    whole = net.test_on_batch(asked.x_val[kept], asked.y_val[kept])
    assert shown.mean() == pytest.approx(float(whole), rel=2e-4)


def test_a_branch_leaves_its_trunk_where_it_was() -> None:
    asked = problem(model=model(batch_norm=True, dropout=0.2))
    population = open_population(asked, SETTINGS, Budget("standard", asked.full_steps))
    trunk = population.trunk(SETTINGS[0])
    trunk.advance(10, "test")
    before = population.validate(trunk.state, "test")
    cooled = trunk.cooled(5, "test")
    assert not np.allclose(population.validate(cooled, "test"), before)
    np.testing.assert_array_equal(population.validate(trunk.state, "test"), before)


def test_a_rate_that_diverges_is_a_result_with_its_step() -> None:
    asked = problem()
    wild = Setting("sgd", 1e6)
    population = open_population(asked, [wild], Budget("standard", asked.full_steps))
    trunk = population.trunk(wild)
    trunk.advance(40, "test")
    assert trunk.diverged_at is not None
    assert trunk.diverged_at < 40
    assert trunk.cooled(5, "test") is None


def test_every_candidate_sees_the_same_batches() -> None:
    asked = problem()
    first = asked.batch_indices(3, 5)
    np.testing.assert_array_equal(first, asked.batch_indices(0, 8)[3:])
    # One pass shows every example once.
    rows = len(asked.y)
    whole = asked.batch_indices(0, -(-rows // asked.batch_size)).ravel()[:rows]
    assert sorted(whole) == list(range(rows))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="counts JAX' compiled programs")
def test_candidates_of_several_rules_share_one_compiled_step() -> None:
    asked = problem()
    settings = [Setting("adam", 0.001), Setting("adam", 0.1), Setting("rmsprop", 0.01)]
    population = open_population(asked, settings, Budget("standard", asked.full_steps))
    for setting in settings:
        population.trunk(setting).advance(5, "test")
    programs = {id(program) for program in population._programs.values()}
    assert len(programs) == 1


def test_every_probe_starts_from_the_first_weights_whatever_ran_before() -> None:
    # Prodigy keeps the weights it started from in a slot: an earlier probe's must not be in there.
    asked = problem()
    rates = [Setting("prodigy", 1.0), Setting("prodigy", 0.3)]
    population = open_population(asked, rates, Budget("standard", asked.full_steps))
    population.trunk(rates[0]).advance(8, "test")
    population.trunk(rates[1]).advance(8, "test")
    alone = open_population(asked, rates, Budget("standard", asked.full_steps))
    alone.trunk(rates[1]).advance(8, "test")
    # The same eight steps in the same program.
    np.testing.assert_allclose(
        population.trunk(rates[1]).losses, alone.trunk(rates[1]).losses, rtol=1e-6
    )


def test_a_model_that_draws_at_random_is_judged_by_the_same_draws_each_time() -> None:
    kind = KINDS["a variational autoencoder"]
    asked = problem(model=kind.model(), x=kind.x, y=None, loss=None, batch_size=16)
    population = open_population(asked, SETTINGS, Budget("standard", asked.full_steps))
    state = population.start(SETTINGS[0])
    before = population.validate(state, "test")
    np.testing.assert_array_equal(population.validate(state, "test"), before)
