"""Hybrid and Interleave: parts that take turns step as they would alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import registry
from keras_gradopt.composite import Composite
from tests.keras_gradopt.problems import (
    assert_close,
    gradients,
    network,
    regression_data,
    start_weights,
    values,
)
from tests.keras_gradopt.trajectories import straight

BACKEND = keras.backend.backend()
# The mode that starts sooner; torch.compile takes a minute for such models.
JIT = BACKEND == "jax"
COMPILING = [pytest.mark.filterwarnings("ignore")] if BACKEND == "torch" else []
Make = Callable[[], Any]


def first_of(wanted: Callable[[type], bool]) -> type:
    return next(cls for cls in registry.optimizer_classes().values() if wanted(cls))


def plain(cls: type) -> bool:
    return not issubclass(cls, Composite)


# One optimizer of each kind that there is.
KINDS: dict[str, Make] = {
    "gradient": lambda: kg.SGD(0.05, momentum=0.9, weight_decay=0.01),
    "keras": lambda: keras.optimizers.Adam(0.02),
    "averaging": lambda: first_of(lambda c: c.averages_weights and plain(c)).example(
        learning_rate=0.05
    ),
    "wrapper": lambda: kg.Lookahead(kg.Adam(0.05), sync_period=2),
    "closure": lambda: first_of(
        lambda c: c.needs == "closure" and plain(c) and not hasattr(c, "verdict")
    ).example(learning_rate=0.02),
    "search": lambda: first_of(
        lambda c: c.needs == "closure" and hasattr(c, "verdict") and plain(c)
    ).example(),
    "losses": lambda: first_of(lambda c: c.needs == "population" and plain(c)).example(),
}
WITHOUT_OBJECTIVE = [
    ("gradient", "keras"),
    ("keras", "gradient"),
    ("keras", "averaging"),
    ("averaging", "wrapper"),
    ("wrapper", "keras"),
]
WITH_OBJECTIVE = [
    ("gradient", "closure"),
    ("losses", "keras"),
    pytest.param("search", "keras", marks=pytest.mark.slow),
    pytest.param("closure", "search", marks=pytest.mark.slow),
]


def variables(weights: Any = None, dtype: str = "float32") -> list[keras.Variable]:
    given = start_weights() if weights is None else weights
    return [keras.Variable(w, dtype=dtype, name=f"w{i}") for i, w in enumerate(given)]


def steps(optimizer: Any, ws: list[keras.Variable], numbers: range) -> None:
    for number in numbers:
        gs = gradients(values(ws), number)
        optimizer.apply([ops.cast(g, w.dtype) for g, w in zip(gs, ws, strict=True)], ws)


def followed(first: Any, then: Any, before: int, after: int, dtype: str = "float32") -> list:
    """The weights after steps of the one, then of the other, each as if alone."""
    ws = variables(dtype=dtype)
    steps(first, ws, range(before))
    first.finalize_variable_values(ws)
    steps(then, ws, range(before, before + after))
    return values(ws)


def bound(optimizer: Any, *, jit_compile: bool = JIT, model: Any = None) -> keras.Model:
    model = kg.bind(model or network())
    model.compile(optimizer=optimizer, loss="mse", jit_compile=jit_compile)
    return model


def fit(model: keras.Model, data: tuple, epochs: int = 1, **arguments: Any) -> list[float]:
    given = {"batch_size": 16, "shuffle": False, "verbose": 0, **arguments}
    return list(model.fit(*data, epochs=epochs, **given).history["loss"])


def same(first: list, second: list) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------------- each part as if alone


@pytest.mark.parametrize(("first", "then"), WITHOUT_OBJECTIVE)
def test_the_parts_step_as_if_each_were_alone(first: str, then: str) -> None:
    ws = variables()
    steps(kg.Hybrid(KINDS[first](), KINDS[then](), switch=4), ws, range(9))
    # Exact: a fresh second part at the weights that the first one was for.
    same(values(ws), followed(KINDS[first](), KINDS[then](), 4, 5))


@pytest.mark.parametrize("before", [3, 4])
def test_before_the_switch_it_is_its_first_part(before: int) -> None:
    ws, vs = variables(), variables()
    steps(kg.Hybrid(KINDS["gradient"](), "adam", switch=4), ws, range(before))
    steps(KINDS["gradient"](), vs, range(before))
    same(values(ws), values(vs))


def compare_in_fit(
    first: Make, then: Make, *, jit_compile: bool, model: Make = network, tolerance: float = 1e-5
) -> kg.Hybrid:
    """Two epochs of four steps, switched after the first: against two models."""
    data = regression_data(64)
    hybrid = bound(kg.Hybrid(first(), then(), switch=4), jit_compile=jit_compile, model=model())
    fit(hybrid, data, 2)
    alone = bound(first(), jit_compile=jit_compile, model=model())
    fit(alone, data)
    second = bound(then(), jit_compile=jit_compile, model=model())
    for v, value in zip(second.trainable_variables, values(alone.trainable_variables), strict=True):
        v.assign(value)
    fit(second, data)
    for a, b in zip(
        values(hybrid.trainable_variables), values(second.trainable_variables), strict=True
    ):
        # A few steps of float32: compilers round a step inside a branch otherwise.
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    return hybrid.optimizer


@pytest.mark.parametrize(("first", "then"), WITH_OBJECTIVE)
def test_parts_that_evaluate_the_loss_do_so_in_fit(first: str, then: str) -> None:
    searches = not {"search", "losses"}.isdisjoint((first, then))
    # Rounding sends a search along other ways; for one minimum of each minibatch they end alike.
    one_minimum = {"model": straight, "tolerance": 1e-3} if searches else {}
    optimizer = compare_in_fit(KINDS[first], KINDS[then], jit_compile=JIT, **one_minimum)
    assert [record.step for record in optimizer.switch_log()] == [4]


@pytest.mark.parametrize(
    "jit_compile", [JIT, pytest.param(not JIT, marks=[pytest.mark.slow, *COMPILING])]
)
def test_parts_step_as_if_alone_in_either_mode(jit_compile: bool) -> None:
    compare_in_fit(KINDS["averaging"], lambda: kg.SAM(kg.SGD(0.05)), jit_compile=jit_compile)


def test_a_hybrid_of_gradient_methods_needs_no_binding() -> None:
    data = regression_data(64)
    paths = []
    for bind in (False, True):
        model = network()
        if bind:
            kg.bind(model)
        model.compile(kg.Hybrid("sgd", "adam", switch=4), loss="mse", jit_compile=JIT)
        fit(model, data, 2)
        paths.append(values(model.variables))
    same(*paths)


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs Keras' layers at every step")
def test_nothing_is_compiled_again_at_the_switch() -> None:
    calls = []

    class Counted(keras.layers.Dense):
        def call(self, x: Any) -> Any:
            calls.append(1)
            return super().call(x)

    model = keras.Sequential([keras.Input((5,)), Counted(1)])
    bound(kg.Hybrid("sgd", kg.SAM("sgd"), switch=6), jit_compile=True, model=model)
    data = regression_data(64)
    fit(model, data)
    traced = len(calls)
    fit(model, data)
    assert model.optimizer.switch_log()
    assert len(calls) == traced


def test_three_stages_are_two_hybrids() -> None:
    def one() -> Any:
        return KINDS["gradient"]()

    def two() -> Any:
        return kg.Lookahead(kg.Adam(0.05), sync_period=2)

    def three() -> Any:
        return keras.optimizers.RMSprop(0.02)

    expected = variables()
    for optimizer, numbers in ((one(), range(3)), (two(), range(3, 5)), (three(), range(5, 8))):
        steps(optimizer, expected, numbers)
    for hybrid in (
        kg.Hybrid(kg.Hybrid(one(), two(), switch=3), three(), switch=5),
        kg.Hybrid(one(), kg.Hybrid(two(), three(), switch=2), switch=3),
    ):
        ws = variables()
        steps(hybrid, ws, range(8))
        same(values(ws), values(expected))
        log = hybrid.switch_log()
        assert [(r.step, r.before, r.after) for r in log] == [
            (3, "SGD", "Lookahead"),
            (5, "Lookahead", "RMSprop"),
        ]
        assert int(ops.convert_to_tensor(hybrid.iterations)) == 8


def test_interleave_goes_by_turns() -> None:
    ws, vs = variables(), variables()
    first, then = KINDS["gradient"](), KINDS["keras"]()
    mixed = kg.Interleave(KINDS["gradient"](), KINDS["keras"](), first_steps=2, then_steps=3)
    steps(mixed, ws, range(12))
    for number in range(12):
        steps(first if number % 5 < 2 else then, vs, range(number, number + 1))
    same(values(ws), values(vs))
    assert mixed.switch_log() == []


def test_interleave_mixes_a_search_into_gradient_steps() -> None:
    data = regression_data(64)
    model = bound(kg.Interleave("adam", kg.LBFGS(), first_steps=3))
    losses = fit(model, data, 3)
    assert losses[-1] < 0.2 * losses[0]
    optimizer = model.optimizer
    counts = [int(ops.convert_to_tensor(p.iterations)) for p in optimizer.parts]
    assert counts == [9, 3]
    # Nine gradients, and what the search says of itself.
    searched = float(ops.convert_to_tensor(optimizer.then.evaluations))
    assert float(ops.convert_to_tensor(optimizer.evaluations)) == pytest.approx(9 + searched)


# ---------------------------------------------------------------------- state


@pytest.mark.parametrize("epochs", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "make",
    [
        lambda: kg.Hybrid(keras.optimizers.Adam(0.02), kg.SAM(kg.SGD(0.05)), switch=6),
        lambda: kg.Interleave("adam", kg.SGD(0.05, momentum=0.9), 3, 2),
    ],
    ids=["hybrid", "interleave"],
)
def test_a_checkpoint_continues_in_either_stage_and_across(
    make: Make, epochs: int, tmp_path: Path
) -> None:
    data = regression_data(64)
    model = bound(make())
    fit(model, data, epochs)
    model.save(tmp_path / "model.keras")
    loaded = kg.bind(keras.models.load_model(tmp_path / "model.keras"))
    for other in (model, loaded):
        fit(other, data, 2)
    same(values(model.variables), values(loaded.variables))
    same(values(model.optimizer.variables), values(loaded.optimizer.variables))
    assert loaded.optimizer.switch_log() == model.optimizer.switch_log()


def test_the_switch_is_saved_by_what_it_is() -> None:
    switch = kg.switches.OnPlateau(patience=3, average_steps=7)
    hybrid = kg.Hybrid(kg.SGD(0.1), "adam", switch=switch)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(hybrid))
    assert again.get_config() == hybrid.get_config()
    assert (again.switch.patience, again.switch.average_steps) == (3, 7)
    assert type(again.then) is type(hybrid.then)


def test_half_precision_weights_are_handed_over_too() -> None:
    ws = variables(dtype="bfloat16")
    steps(kg.Hybrid(kg.SGD(0.05), kg.Adam(0.05), switch=4), ws, range(8))
    same(values(ws), followed(kg.SGD(0.05), kg.Adam(0.05), 4, 4, "bfloat16"))


def test_averages_that_the_first_part_keeps_are_what_the_second_gets() -> None:
    def averaged() -> Any:
        return kg.SGD(0.05, use_ema=True, ema_momentum=0.9)

    ws = variables()
    steps(kg.Hybrid(averaged(), kg.SGD(0.0), switch=4), ws, range(6))
    alone, vs = averaged(), variables()
    steps(alone, vs, range(4))
    same(values(ws), values(alone._model_variables_moving_average))
    assert not np.array_equal(values(ws)[0], values(vs)[0])


def test_the_average_is_evaluated_while_its_part_is_on_turn_and_left_alone_afterwards() -> None:
    data = regression_data(64)
    make = KINDS["averaging"]
    model, alone = bound(kg.Hybrid(make(), kg.SGD(0.05), switch=6)), bound(make())
    for one in (model, alone):
        fit(one, data)
    seen, expected = (m.evaluate(*data, verbose=0) for m in (model, alone))
    assert seen == pytest.approx(expected, rel=1e-5)
    fit(model, data)
    before = values(model.trainable_variables)
    for put in (model.optimizer.put_evaluation_weights, model.optimizer.put_training_weights):
        put(model.trainable_variables)
        same(values(model.trainable_variables), before)


def test_accumulating_parts_are_switched_between_whole_steps() -> None:
    def gathers(steps: int | None) -> Any:
        return kg.SGD(0.05, momentum=0.9, gradient_accumulation_steps=steps)

    ws, hybrid = variables(), kg.Hybrid(gathers(2), gathers(3), switch=2)
    steps(hybrid, ws, range(10))
    same(values(ws), followed(gathers(2), gathers(3), 4, 6))
    assert int(ops.convert_to_tensor(hybrid.iterations)) == 4


# ---------------------------------------------------------------------- what else it shows


def test_rate_and_schedule_are_those_of_the_part_on_turn() -> None:
    rate = kg.schedules.ExponentialDecay(0.1, 1, 0.5)
    ws, hybrid = variables(), kg.Hybrid(kg.SGD(0.3), kg.SGD(rate), switch=2)

    def shown() -> float:
        return float(ops.convert_to_tensor(hybrid.learning_rate))

    assert shown() == pytest.approx(0.3)
    steps(hybrid, ws, range(1))
    hybrid.learning_rate = 0.2
    assert shown() == pytest.approx(0.2)
    steps(hybrid, ws, range(1))
    assert shown() == pytest.approx(0.1)
    steps(hybrid, ws, range(1))
    # Its own first step.
    assert shown() == pytest.approx(0.05)


def test_a_schedule_of_the_second_part_hears_no_loss_before_its_turn() -> None:
    rate = kg.schedules.ReduceOnPlateau(0.05, average_steps=1000)
    data = regression_data(64)
    model = bound(kg.Hybrid("sgd", kg.SGD(rate), switch=5))
    fit(model, data, 2)
    # The loss of the fifth step is heard after the switch.
    assert float(ops.convert_to_tensor(rate.state["seen"])) == 8 - 5 + 1


def test_no_gradient_is_computed_where_neither_part_uses_one() -> None:
    class Still(keras.layers.Dense):
        """Without a gradient: a step as its activation."""

        def call(self, x: Any) -> Any:
            return ops.cast(super().call(x) > 0, "float32")

    data = regression_data(64)
    labels = (data[1] > 0).astype("float32")
    for optimizer in (
        kg.Hybrid(kg.SPSA(0.05), kg.EvolutionStrategy(), switch=2),
        kg.Interleave(kg.SPSA(0.05), kg.EvolutionStrategy()),
    ):
        layers = [keras.Input((5,)), Still(1, kernel_initializer="ones")]
        model = bound(optimizer, model=keras.Sequential(layers))
        losses = fit(model, (data[0], labels), 4, batch_size=64)
        assert np.all(np.isfinite(losses))
        counts = [float(ops.convert_to_tensor(p.evaluations)) for p in optimizer.parts]
        # Each part counts the loss that its steps begin with.
        total = float(ops.convert_to_tensor(optimizer.evaluations))
        assert total == pytest.approx(sum(counts), rel=1e-5)
        assert min(counts) > 0


def test_what_is_evaluated_is_counted() -> None:
    data = regression_data(64)

    def counted(optimizer: Any) -> float:
        model = bound(optimizer)
        fit(model, data, 2)
        return float(ops.convert_to_tensor(model.optimizer.evaluations))

    hybrid = kg.Hybrid("sgd", kg.SAM("sgd"), switch=4)
    assert counted(hybrid) == 4 + 2 * 4
    # One gradient more for each step, at the worst point.
    around = kg.SAM(kg.Hybrid("sgd", kg.SAM("sgd"), switch=4))
    assert counted(around) == 4 + 2 * 4 + 8


def test_a_search_that_has_ended_hands_over_and_does_not_end_the_training(
    capsys: pytest.CaptureFixture,
) -> None:
    data = regression_data(64)
    # Everything is as good as this tolerance asks.
    model = bound(kg.Hybrid(kg.LBFGS(tolerance=1e9), kg.SGD(0.05), switch=1000))
    losses = fit(model, data, 3, verbose=2)
    assert len(losses) == 3
    assert losses[2] < losses[1]
    (record,) = model.optimizer.switch_log()
    assert (record.step, record.reason) == (4, "no step of a whole epoch moved the weights")
    assert f"Epoch 1: {record}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_search_that_comes_last_ends_the_training() -> None:
    data = regression_data(64)
    # Not on turn yet, it says nothing.
    later = bound(kg.Hybrid("sgd", kg.LBFGS(tolerance=1e9), switch=4))
    assert len(fit(later, data, 5)) == 2


def test_the_report_tells_each_switch_once(capsys: pytest.CaptureFixture) -> None:
    data = regression_data(64)
    model = bound(kg.Hybrid(kg.Hybrid("sgd", "adam", switch=2), "rmsprop", switch=6))
    fit(model, data, 3, verbose=2)
    told = [line for line in capsys.readouterr().out.splitlines() if "follows" in line]
    assert told == [
        "Epoch 1: after step 2 Adam follows SGD: 2 steps were asked for.",
        "Epoch 2: after step 6 RMSprop follows Adam: 6 steps were asked for.",
    ]
    fit(model, data, 1, verbose=2)
    assert "follows" not in capsys.readouterr().out


def test_it_is_handed_over_by_hand() -> None:
    ws, hybrid = variables(), kg.Hybrid(kg.SGD(0.05), kg.Adam(0.05), switch=100)
    with pytest.raises(RuntimeError, match="was not built yet"):
        hybrid.hand_over()
    steps(hybrid, ws, range(3))
    assert hybrid.hand_over()
    assert not hybrid.hand_over()
    steps(hybrid, ws, range(3, 6))
    same(values(ws), followed(kg.SGD(0.05), kg.Adam(0.05), 3, 3))
    assert [str(record) for record in hybrid.switch_log()] == [
        "after step 3 Adam follows SGD: hand_over was called."
    ]


def test_a_rule_that_needs_the_data_takes_its_pass_after_the_switch() -> None:
    data = regression_data(64)
    rule = first_of(lambda c: c.needs == "dataset")
    model = kg.bind(network(), dataset=data)
    model.compile(kg.Hybrid("sgd", rule.example(), switch=4), loss="mse", jit_compile=JIT)
    losses = fit(model, data)
    # What it knew of the weights before the switch is forgotten.
    assert model.optimizer.then.steps_to_pass() == 0
    losses += fit(model, data, 2)
    assert float(model.optimizer.then._shared["minibatches"]) == 4
    assert losses[-1] < losses[1] < losses[0]


# ---------------------------------------------------------------------- what is refused


def used() -> Any:
    optimizer = kg.SGD(0.1)
    optimizer.build(variables())
    return optimizer


ONE = kg.SGD(0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kg.Hybrid(used(), "sgd", switch=3), "first must be an optimizer that was not"),
        (lambda: kg.Hybrid("sgd", used(), switch=3), "then must be an optimizer that was not"),
        (lambda: kg.Hybrid(ONE, kg.Lookahead(ONE), switch=3), "first and then share"),
        (lambda: kg.Hybrid("sgd", 3, switch=3), "then must be a Keras optimizer.*received 3"),
        (lambda: kg.Hybrid("sgd", "adamm", switch=3), "Unknown optimizer 'adamm'. Did you mean"),
        (lambda: kg.Hybrid("sgd", "adam", switch=0), "switch must be a whole number >= 1"),
        (lambda: kg.Hybrid("sgd", "adam", switch=2.5), "switch must be a whole number"),
        (lambda: kg.Hybrid("sgd", "adam", switch=True), "received True of type bool"),
        (lambda: kg.Hybrid("sgd", "adam", switch="platoe"), "Did you mean OnPlateau.*OnSaddle"),
        (lambda: kg.Hybrid("sgd", "adam", switch="after_steps"), r"switches\.AfterSteps\("),
        (lambda: kg.Hybrid("sgd", "adam", switch=3, clipnorm=1.0), "through its parts: give it to"),
        (
            lambda: kg.Hybrid(
                kg.SGD(loss_scale_factor=2.0), kg.SGD(loss_scale_factor=4.0), switch=3
            ),
            "there is one loss",
        ),
        (
            lambda: kg.Hybrid(kg.SGD(gradient_accumulation_steps=2), "sgd", switch="saddle"),
            "accumulated over several",
        ),
        (lambda: kg.Interleave("sgd", "adam", first_steps=0), "first_steps must be a whole"),
        (lambda: kg.Interleave("sgd", kg.SGD(use_ema=True)), "put an average around both"),
        (lambda: kg.Interleave(KINDS["averaging"](), "sgd"), "put an average around both"),
    ],
)
def test_bad_input_is_named(make: Make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda: kg.Hybrid("sgd", kg.SAM("sgd"), switch=100), "Hybrid evaluates the loss again"),
        (lambda: kg.Hybrid("sgd", "adam", switch="plateau"), "OnPlateau follows the loss"),
        (lambda: kg.Hybrid("sgd", "adam", switch="saddle"), "Hybrid evaluates the loss again"),
        (lambda: kg.Interleave("sgd", kg.SAM("sgd"), 9), "Interleave evaluates the loss again"),
    ],
)
def test_an_unbound_model_says_bind_at_the_first_step(optimizer: Make, message: str) -> None:
    # Also where the part that needs the loss is not on turn yet.
    with pytest.raises(RuntimeError, match=rf"{message}[^.]*\. Call keras_gradopt\.bind\(model\)"):
        steps(optimizer(), variables(), range(1))


def test_accumulation_deep_inside_a_rule_that_evaluates_the_loss_is_refused() -> None:
    inner = kg.Lookahead(kg.SGD(gradient_accumulation_steps=2))
    with pytest.raises(ValueError, match="cannot accumulate gradients"):
        kg.SAM(inner).build(variables())


def test_a_wrapper_around_parts_that_accumulate_differently_is_refused() -> None:
    hybrid = kg.Hybrid(kg.SGD(0.1, gradient_accumulation_steps=2), kg.SGD(0.1), switch=2)
    with pytest.raises(ValueError, match=r"accumulate gradients over \[2, 0\] minibatches"):
        steps(kg.Lookahead(hybrid), variables(), range(1))


def test_a_report_of_an_optimizer_that_does_not_switch_is_refused() -> None:
    model = network()
    model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="needs an optimizer that switches"):
        fit(model, regression_data(16), callbacks=[kg.callbacks.SwitchReport()])


def test_wrappers_stand_around_hybrids() -> None:
    ws, vs = variables(), variables()
    hybrid = kg.Hybrid(kg.SGD(0.05), kg.SGD(0.02), switch=3)
    steps(kg.Lookahead(hybrid, sync_period=2, slow_step_size=0.5), ws, range(6))
    slow = values(vs)
    for number in range(6):
        steps(kg.SGD(0.05 if number < 3 else 0.02), vs, range(number, number + 1))
        if number % 2:
            slow = [s + 0.5 * (w - s) for s, w in zip(slow, values(vs), strict=True)]
            for v, s in zip(vs, slow, strict=True):
                v.assign(s)
    # Six steps of float32.
    assert_close([values(ws)], [values(vs)], 1e-6)
