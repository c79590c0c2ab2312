"""What every optimizer promises, asked of each class in the registry."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import registry
from keras_gradopt.groups import PLAIN
from keras_gradopt.wrappers import Wrapper
from tests.keras_gradopt.problems import (
    assert_close,
    gradients,
    network,
    regression_data,
    start_weights,
    train,
    values,
)

CLASSES = list(registry.optimizer_classes().values())
# Rules that run without a bound model, and those whose step is a pure function.
WITHOUT_OBJECTIVE = [c for c in CLASSES if c.needs == "gradient"]
PURE = [c for c in WITHOUT_OBJECTIVE if c.transition is kg.Optimizer.transition]


def contract(cls: type) -> tuple:
    """Which paths of the base class a rule goes: rules that agree in it share one contract."""
    example = cls.example()
    if cls.needs != "gradient":
        # Their steps take long to compile, and go the same way through the base class.
        wraps = issubclass(cls, Wrapper)
        return cls.__module__.split(".")[-2], cls.needs, hasattr(cls, "verdict"), wraps
    return (
        cls.__module__.split(".")[-2],
        cls.needs,
        cls.elementwise,
        cls.decays_weights,
        bool(example.slots((2, 2))),
        any(callable(slot.initial) for slot in example.slots((2, 2))),
        any(slot.shape_for((2, 2)) != (2, 2) for slot in example.slots((2, 2))),
        bool(example.shared_slots()),
        cls.measure is not kg.Optimizer.measure,
    )


def first_of_each_contract() -> set[type]:
    first: dict[tuple, type] = {}
    # Steps on the host take long.
    for cls in sorted(CLASSES, key=lambda c: getattr(c, "host_step", False)):
        first.setdefault(contract(cls), cls)
    return set(first.values())


# What the base class does is asked of one rule per contract, of the others in the slow tests.
REPRESENTATIVES = first_of_each_contract()


def once_per_contract(classes: list[type]) -> pytest.MarkDecorator:
    marked = [
        cls if cls in REPRESENTATIVES else pytest.param(cls, marks=pytest.mark.slow)
        for cls in classes
    ]
    return pytest.mark.parametrize("cls", marked, ids=lambda c: c.__name__)


one_class_per_contract = once_per_contract(CLASSES)
one_gradient_class_per_contract = once_per_contract(WITHOUT_OBJECTIVE)
one_pure_class_per_contract = once_per_contract(PURE)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
every_gradient_class = pytest.mark.parametrize("cls", WITHOUT_OBJECTIVE, ids=lambda c: c.__name__)
every_pure_class = pytest.mark.parametrize("cls", PURE, ids=lambda c: c.__name__)
# Its XLA cannot call the host.
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
# torch.compile takes 20 to 90 seconds for each of these models, and warns of itself in many places.
ON_TORCH = keras.backend.backend() == "torch"
COMPILING = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def variables(dtype: str = "float32") -> list[keras.Variable]:
    return [keras.Variable(w, dtype=dtype, name=f"w{i}") for i, w in enumerate(start_weights())]


def step(optimizer: Any, ws: list[keras.Variable], number: int = 0) -> None:
    grads = gradients(values(ws), number)
    optimizer.apply([ops.cast(g, w.dtype) for g, w in zip(grads, ws, strict=True)], ws)


def compiled(cls: type, *, jit_compile: bool, **network_arguments: Any) -> keras.Model:
    if ON_TORCH and jit_compile:
        import torch

        torch.compiler.reset()
    model = bound(cls, network(**network_arguments))
    model.compile(optimizer=cls.example(), loss="mse", jit_compile=jit_compile)
    return model


def bound(cls: type, model: keras.Model) -> keras.Model:
    """The model, bound with the data that these tests train on where the rule needs them."""
    return kg.bind(model, dataset=regression_data() if cls.needs == "dataset" else None)


# ---------------------------------------------------------------------- training through Keras


# The mode that starts sooner on small models: JAX without compilation runs each operation alone.
SOONER = keras.backend.backend() == "jax"


@every_class
def test_fit_lowers_the_loss(cls: type) -> None:
    # Without dropout, whose noise would hide what the small default rates gain in some epochs.
    _fit_lowers_the_loss(cls, jit_compile=SOONER, dropout=0.0)


@one_class_per_contract
@pytest.mark.parametrize(
    "jit_compile", [pytest.param(not SOONER, marks=COMPILING if ON_TORCH else [])]
)
def test_fit_lowers_the_loss_in_the_other_mode(cls: type, jit_compile: bool) -> None:
    if jit_compile and getattr(cls, "host_step", False) and ON_TENSORFLOW:
        with pytest.raises(ValueError, match="jit_compile=False"):
            _fit_lowers_the_loss(cls, jit_compile=True, dropout=0.1)
        return
    _fit_lowers_the_loss(cls, jit_compile=jit_compile, dropout=0.1)


def _fit_lowers_the_loss(cls: type, *, jit_compile: bool, dropout: float) -> None:
    x, y = regression_data()
    model = compiled(cls, jit_compile=jit_compile, dropout=dropout, batch_norm=True)
    # The default rates are for long trainings; a loss that falls is what any of them must give.
    batch_size = len(x) if cls.wants_whole_data else 8
    history = model.fit(x, y, epochs=6, batch_size=batch_size, verbose=0).history["loss"]
    assert np.all(np.isfinite(history))
    assert history[-1] < history[0]
    if cls.needs not in ("gradient", "dataset"):  # passes over a dataset are no steps
        steps, dearest = int(model.optimizer.iterations), model.optimizer.dearest_step()
        assert float(ops.convert_to_numpy(model.optimizer.evaluations)) <= steps * dearest + 0.01


@every_class
def test_it_is_found_by_name_and_by_keras(cls: type) -> None:
    assert getattr(kg, cls.__name__) is cls
    assert registry.find(cls.__name__) is cls
    assert registry.find(f"keras_gradopt>{cls.__name__}") is cls
    assert keras.saving.get_registered_object(f"keras_gradopt>{cls.__name__}") is cls


@one_gradient_class_per_contract
def test_a_checkpoint_continues_as_if_nothing_had_happened(cls: type, tmp_path: Path) -> None:
    x, y = regression_data()
    model = compiled(cls, jit_compile=keras.backend.backend() == "jax", batch_norm=True)
    model.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is cls
    if cls.averages_weights:
        # The average was saved; only a bound model takes the weights in training back in time.
        kg.bind(loaded)
    for other in (model, loaded):
        other.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
    for a, b in zip(values(model.variables), values(loaded.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(
        values(model.optimizer.variables), values(loaded.optimizer.variables), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@one_class_per_contract
def test_a_loaded_model_that_needs_the_loss_says_bind(cls: type, tmp_path: Path) -> None:
    x, y = regression_data()
    model = compiled(cls, jit_compile=False)
    model.fit(x, y, epochs=1, batch_size=32, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    # An instance may do without what others of its class need.
    needs_binding = loaded.optimizer.needs != "gradient"
    if needs_binding:
        with pytest.raises(RuntimeError, match=r"keras_gradopt\.bind"):
            loaded.fit(x, y, epochs=1, batch_size=32, shuffle=False, verbose=0)
        # Keras on JAX loses the values of a model whose first step fails, as the message says.
        loaded = keras.models.load_model(tmp_path / "model.keras")
    if needs_binding or cls.averages_weights:
        bound(cls, loaded)
    for other in (model, loaded):
        other.fit(x, y, epochs=1, batch_size=32, shuffle=False, verbose=0)
    for a, b in zip(values(model.variables), values(loaded.variables), strict=True):
        np.testing.assert_array_equal(a, b)


@one_class_per_contract
def test_mixed_float16_trains_and_scales_its_loss(cls: type) -> None:
    x, y = regression_data()
    keras.config.set_dtype_policy("mixed_float16")
    model = compiled(cls, jit_compile=keras.backend.backend() == "jax")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    history = model.fit(x, y, epochs=6, batch_size=8, verbose=0).history["loss"]
    assert np.all(np.isfinite(history))
    assert history[-1] < history[0]
    # The steps were really made: a scale that always overflows would skip them all.
    assert int(model.optimizer.iterations) > 24


@once_per_contract([c for c in CLASSES if c.needs != "population"])
def test_a_gradient_that_overflows_is_skipped_by_loss_scaling(cls: type) -> None:
    x, y = regression_data()
    keras.config.set_dtype_policy("mixed_float16")
    model = compiled(cls, jit_compile=False)
    before = values(model.trainable_variables)
    model.fit(x * np.float32(3e4), y, epochs=1, batch_size=64, verbose=0)
    for a, b in zip(values(model.trainable_variables), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(model.optimizer.iterations) == 0


# ---------------------------------------------------------------------- Keras' documented interface


@every_class
def test_config_makes_the_same_optimizer(cls: type) -> None:
    given = {"clipnorm": 0.5, "use_ema": True, "name": "named"}
    first = cls.example(**{name: v for name, v in given.items() if name not in cls.refused})
    config = first.get_config()
    second = cls.from_config(config)
    assert second.get_config() == first.get_config()
    through_keras = keras.optimizers.deserialize(keras.optimizers.serialize(first))
    assert type(through_keras) is cls
    assert through_keras.get_config() == first.get_config()


@every_gradient_class
def test_variables_are_counted_once_and_set_weights_restores_them(cls: type) -> None:
    optimizer, ws = cls.example(), variables()
    step(optimizer, ws)
    names = [id(v) for v in optimizer.variables]
    assert len(names) == len(set(names))
    saved = values(optimizer.variables)
    weights = values(ws)
    step(optimizer, ws, 1)
    after = values(ws)
    optimizer.set_weights(saved)
    for w, value in zip(ws, weights, strict=True):
        w.assign(value)
    step(optimizer, ws, 1)
    assert_close([values(ws)], [after], 0.0)


@every_gradient_class
def test_iterations_and_learning_rate_can_be_read_and_set(cls: type) -> None:
    optimizer, ws = cls.example(), variables()
    step(optimizer, ws)
    step(optimizer, ws, 1)
    assert int(ops.convert_to_tensor(optimizer.iterations)) == 2
    optimizer.learning_rate = 0.25
    assert float(ops.convert_to_tensor(optimizer.learning_rate)) == 0.25
    # A fresh one at rate 0 stays where it is; later a velocity may hold earlier rates.
    still, ws = cls.example(), variables()
    still.build(ws)
    still.learning_rate = 0.0
    step(still, ws)
    assert_close([values(ws)], [start_weights()], 0.0)


@every_gradient_class
def test_apply_gradients_takes_pairs_in_any_order(cls: type) -> None:
    paths = []
    for order in (slice(None), slice(None, None, -1)):
        optimizer, ws = cls.example(), variables()
        optimizer.build(ws)
        for number in range(3):
            grads = [ops.convert_to_tensor(g) for g in gradients(values(ws), number)]
            optimizer.apply_gradients(list(zip(grads, ws, strict=True))[order])
        paths.append(values(ws))
    # Packing and sums over variables run in the order given: float32 rounding.
    assert_close([paths[1]], [paths[0]], 2e-6)


@every_gradient_class
def test_a_missing_gradient_leaves_its_variable_alone(cls: type) -> None:
    optimizer, ws = cls.example(), variables()
    before = values(ws)
    grads = [ops.convert_to_tensor(g) for g in gradients(before, 0)]
    # Twice: a rule may only look at its first gradient.
    for _ in range(2):
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.apply([None, *grads[1:]], ws)
    np.testing.assert_array_equal(values(ws)[0], before[0])
    assert not np.array_equal(values(ws)[1], before[1])


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="Keras has no stateless_apply on TensorFlow (it raises)",
)
@every_gradient_class
def test_stateless_apply_equals_apply(cls: type) -> None:
    stateful, ws = cls.example(), variables()
    stateless, vs = cls.example(), variables()
    stateless.build(vs)
    start = values(vs)
    trainable = [ops.convert_to_tensor(w) for w in start]
    state = [ops.copy(v.value) for v in stateless.variables]
    for number in range(3):
        step(stateful, ws, number)
        grads = gradients([np.array(ops.convert_to_numpy(t)) for t in trainable], number)
        trainable, state = stateless.stateless_apply(
            state, [ops.convert_to_tensor(g) for g in grads], trainable
        )
    assert_close([[np.array(ops.convert_to_numpy(t)) for t in trainable]], [values(ws)], 1e-6)
    for v, value in zip(vs, start, strict=True):
        np.testing.assert_array_equal(values([v])[0], value)


@every_pure_class
def test_update_step_alone_moves_one_variable_as_the_rule_does(cls: type) -> None:
    w = keras.Variable(start_weights()[0])
    alone = cls.example()
    alone.build([w])
    alone.update_step(ops.ones(w.shape), w, 0.1)
    other = keras.Variable(start_weights()[0])
    whole = cls.example(learning_rate=0.1, weight_decay=None)
    whole.apply([ops.ones(w.shape)], [other])
    np.testing.assert_allclose(values([w])[0], values([other])[0], rtol=1e-6, atol=1e-7)


@every_gradient_class
def test_scale_loss_and_its_inverse_cancel(cls: type) -> None:
    scaled, plain = cls.example(loss_scale_factor=8.0), cls.example()
    assert float(scaled.scale_loss(2.0)) == 16.0
    ws, vs = variables(), variables()
    grads = [ops.convert_to_tensor(g) for g in gradients(values(ws), 0)]
    scaled.apply([g * 8.0 for g in grads], ws)
    plain.apply(grads, vs)
    assert_close([values(ws)], [values(vs)], 1e-6)


@every_pure_class
def test_weight_decay_spares_what_is_excluded(cls: type) -> None:
    optimizer, ws = cls.example(learning_rate=0.1, weight_decay=0.5), variables()
    optimizer.exclude_from_weight_decay(var_list=[ws[1]], var_names=["w2"])
    reference, vs = cls.example(learning_rate=0.1, weight_decay=None), variables()
    same = [ops.convert_to_tensor(g) for g in gradients(values(ws), 0)]
    optimizer.apply(same, ws)
    reference.apply(same, vs)
    moved = [not np.allclose(a, b, rtol=1e-6) for a, b in zip(values(ws), values(vs), strict=True)]
    # A rule that finds its own rate begins with so small a one that no decay of it is seen.
    seen = not cls.finds_its_rate
    assert moved == [seen, False, False, seen]


@every_pure_class
def test_excluding_everything_from_weight_decay_is_no_weight_decay(cls: type) -> None:
    optimizer = cls.example(weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["w"])
    assert_close(train(optimizer, 3), train(cls.example(weight_decay=None), 3), 0.0)


@every_class
def test_state_is_added_and_assigned_as_keras_documents(cls: type) -> None:
    optimizer, ws = cls.example(), variables()
    optimizer.build(ws)
    count = len(optimizer.variables)
    added = optimizer.add_variable((2,), initializer="ones", name="added")
    beside = optimizer.add_variable_from_reference(ws[0], name="beside")
    several = optimizer.add_optimizer_variables(ws, "several")
    assert len(optimizer.variables) == count + 2 + len(ws)
    assert [tuple(v.shape) for v in (beside, *several)] == [tuple(w.shape) for w in (ws[0], *ws)]
    optimizer.assign(added, ops.full((2,), 5.0))
    optimizer.assign_add(added, ops.ones((2,)))
    optimizer.assign_sub(added, ops.full((2,), 2.0))
    np.testing.assert_array_equal(values([added])[0], [4.0, 4.0])


@every_class
def test_its_own_variables_go_through_a_store(cls: type) -> None:
    first, second = cls.example(), cls.example()
    for optimizer in (first, second):
        optimizer.build(variables())
    for number, v in enumerate(first.variables):
        v.assign(ops.full(v.shape, number, dtype=v.dtype))
    store: dict[str, Any] = {}
    first.save_own_variables(store)
    second.load_own_variables(store)
    for a, b in zip(values(second.variables), values(first.variables), strict=True):
        np.testing.assert_array_equal(a, b)


@one_pure_class_per_contract
def test_weights_are_replaced_by_their_average_when_it_is_due(cls: type) -> None:
    optimizer = cls.example(use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3)
    ws = variables()
    for number in range(3):
        before = values(ws)
        step(optimizer, ws, number)
    averages = values(optimizer._model_variables_moving_average)
    assert_close([values(ws)], [averages], 0.0)
    assert not np.array_equal(values(ws)[0], before[0])


# ---------------------------------------------------------------------- right where Keras is not


@every_gradient_class
def test_bfloat16_variables_move_as_float32_ones_do(cls: type) -> None:
    """Keras' own Adam does not move them at all: 0.999 rounds to 1."""
    full, half = cls.example(), cls.example()
    full.learning_rate = half.learning_rate = 1.0 if cls.finds_its_rate else 0.05
    ws, vs = variables(), variables("bfloat16")
    for number in range(8):
        step(full, ws, number)
        step(half, vs, number)
    for a, b, start in zip(values(vs), values(ws), start_weights(), strict=True):
        # bfloat16 keeps 8 bits: 8 roundings of 1/256 of weights of order one.
        np.testing.assert_allclose(a, b, atol=8 / 256 * max(1.0, np.abs(b).max()))
        if np.abs(b - start).max() > 0.1:
            assert np.abs(a - start).max() > 0.05
    for v in half.variables:
        assert v.dtype != "bfloat16" or v.name.endswith("lost_digits")


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="JAX has no float64 unless it is told at its start"
)
@every_pure_class
def test_float64_variables_move_as_float32_ones_do(cls: type) -> None:
    single, double = cls.example(weight_decay=0.1), cls.example(weight_decay=0.1)
    ws, vs = variables(), variables("float64")
    for number in range(4):
        step(single, ws, number)
        step(double, vs, number)
    assert all(v.dtype == "float64" for v in vs)
    # Four steps of float32 rounding; roots of matrices keep half of its digits.
    assert_close([values(ws)], [values(vs)], 1e-3 if _of_own_shape(cls) else 1e-5)


def _of_own_shape(cls: type) -> bool:
    return any(slot.shape_for((4, 3)) != (4, 3) for slot in cls.example().slots((4, 3)))


@one_gradient_class_per_contract
def test_accumulated_minibatches_make_one_step_of_their_mean(cls: type) -> None:
    whole, ws = cls.example(global_clipnorm=1.0), variables()
    parts, vs = cls.example(global_clipnorm=1.0, gradient_accumulation_steps=2), variables()
    for number in range(3):
        a, b = gradients(values(ws), 2 * number), gradients(values(ws), 2 * number + 1)
        whole.apply([ops.convert_to_tensor((p + q) / 2) for p, q in zip(a, b, strict=True)], ws)
        before = values(vs)
        parts.apply([ops.convert_to_tensor(p) for p in a], vs)
        assert_close([values(vs)], [before], 0.0)
        parts.apply([ops.convert_to_tensor(q) for q in b], vs)
        assert_close([values(vs)], [values(ws)], 1e-6)
    assert int(ops.convert_to_tensor(parts.iterations)) == 3


@one_gradient_class_per_contract
def test_averages_follow_real_steps_and_end_up_in_the_model(cls: type) -> None:
    if getattr(cls, "keeps_gradients", False):
        pytest.skip("its inner optimizer averages its own steps, before the wrapper changes them")
    optimizer = cls.example(use_ema=True, ema_momentum=0.5, gradient_accumulation_steps=2)
    ws = variables()
    expected = None
    for number in range(6):
        # With a wrapper the average is the inner optimizer's: of the weights it made.
        step(optimizer, ws, number)
        if number % 2:
            now = values(ws)
            expected = (
                now
                if expected is None
                else [0.5 * e + 0.5 * n for e, n in zip(expected, now, strict=True)]
            )
    assert expected is not None
    if cls.averages_weights and hasattr(optimizer, "inner"):
        # Two averages: the outer one is the model's. The inner one is asked for by name.
        optimizer = optimizer.inner
    optimizer.finalize_variable_values(ws)
    assert_close([values(ws)], [expected], 1e-6)


@every_pure_class
def test_packing_small_variables_changes_nothing(cls: type) -> None:
    """Elementwise rules run on one vector; a rule that declares it wrongly is caught here."""
    optimizer = cls.example(weight_decay=0.1)
    ws = [ops.convert_to_tensor(w) for w in start_weights()]
    gs = [ops.convert_to_tensor(g) for g in gradients(start_weights(), 0)]
    slots, shared = optimizer.initial_slots(ws), optimizer.initial_shared(ws)
    alone_slots = slots
    for number in (1, 2, 3):
        h = optimizer.hyperparameters(number)
        packed = optimizer.transition(ws, gs, slots, shared, h)
        numbers, new_shared = optimizer.measure(ws, gs, alone_slots, shared, h)
        full = h.replace(numbers=numbers, shared=new_shared)
        alone = [
            optimizer.move(w, g, *s, h=full, member=PLAIN)
            for w, g, s in zip(ws, gs, alone_slots, strict=True)
        ]
        for together, one, s in zip(packed[0], alone, packed[1], strict=True):
            for a, b in zip((together, *s), one, strict=True):
                np.testing.assert_allclose(
                    ops.convert_to_numpy(a), ops.convert_to_numpy(b), rtol=1e-6, atol=1e-9
                )
        ws, slots, shared = packed
        alone_slots = [tuple(o[1:]) for o in alone]


@every_pure_class
def test_every_number_is_a_hyperparameter_that_h_can_override(cls: type) -> None:
    optimizer = cls.example()
    names = optimizer.hyperparameter_names
    assert "learning_rate" in names
    h = optimizer.hyperparameters(3, **dict.fromkeys(names, 0.125))
    assert [getattr(h, name) for name in names] == [0.125] * len(names)


@every_pure_class
def test_every_schedulable_hyperparameter_takes_a_schedule(cls: type) -> None:
    for name, allowed in cls.all_ranges().items():
        fixed = cls.example()
        value = getattr(fixed, name, None)
        if not allowed.schedulable or not isinstance(value, float) or value == 0.0:
            continue
        scheduled = cls.example(**{name: kg.schedules.Sequential([value, value], [2])})
        assert_close(train(scheduled, 4), train(fixed, 4), 1e-6)


@one_gradient_class_per_contract
def test_a_variable_it_was_not_built_with_is_refused_by_name(cls: type) -> None:
    optimizer, ws = cls.example(), variables()
    optimizer.build(ws[:2])
    with pytest.raises(ValueError, match="w2"):
        optimizer.apply([ops.ones(ws[2].shape)], [ws[2]])
    if cls in PURE:
        with pytest.raises(ValueError, match="was not built with the variable 'w2'"):
            optimizer.update_step(ops.ones(ws[2].shape), ws[2], 0.1)


@one_gradient_class_per_contract
def test_a_transform_given_twice_is_refused_by_name(cls: type) -> None:
    clip = kg.transforms.ClipByNorm
    for twice in (
        {"gradient_transforms": [clip(1.0), clip(2.0)]},
        {"gradient_transforms": [clip(1.0)], "clipnorm": 1.0},
    ):
        with pytest.raises(ValueError, match="through ClipByNorm twice"):
            cls.example(**twice)


@every_class
def test_no_argument_takes_a_schedule_that_its_range_does_not_allow(cls: type) -> None:
    for name, allowed in cls.all_ranges().items():
        if allowed.schedulable or name not in cls.argument_defaults():
            continue
        with pytest.raises(ValueError, match=rf"{name} must be a number in [^ ]* ?[^ ]*, received"):
            _with(cls, name, kg.schedules.Constant(0.5))


@every_class
def test_arguments_outside_their_range_are_refused_by_name(cls: type) -> None:
    for name, allowed in cls.all_ranges().items():
        if name not in cls.argument_defaults():
            continue
        with pytest.raises(ValueError, match=rf"{name} must be in .*received -1\.0"):
            _with(cls, name, -1.0)
        with pytest.raises(ValueError, match=name):
            _with(cls, name, "high")
        assert -1.0 not in allowed
    with pytest.raises(ValueError, match="learning_rat"):
        _with(cls, "learning_rat", 0.1)


def _with(cls: type, name: str, value: Any) -> Any:
    needs_parts = inspect.Parameter.empty in cls.argument_defaults().values()
    given = cls.example().get_config() if needs_parts else {}
    return cls.from_config({**given, name: value})
