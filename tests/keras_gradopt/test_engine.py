"""How the engine runs a rule over many variables, beside the rule on one at a time."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt.groups import PLAIN
from keras_gradopt.learned import LearnedRule

BACKEND = keras.backend.backend()


def made(class_name: str, **arguments: Any) -> Any:
    return getattr(kg, class_name).example(**arguments)


# Scalars, rows, matrices, a convolution kernel, and one too large to be packed.
SHAPES = [(), (1,), (5,), (3, 4), (17, 9), (2, 3, 4, 5), (300, 700), (33,), (8, 8)]
ELEMENTWISE = [
    m.class_name
    for m in kg.methods()
    if m.needs == "gradient" and getattr(getattr(kg, m.class_name), "elementwise", False)
]
# Decompositions of matrices as large as the one above take seconds.
SMALL = [shape for shape in SHAPES if int(np.prod(shape)) < 1000]
WHOLE = [
    m.class_name
    for m in kg.methods()
    if m.needs == "gradient"
    and not getattr(getattr(kg, m.class_name), "elementwise", False)
    and not hasattr(made(m.class_name), "inner")
]
# Elsewhere one skip, not one for each rule.
TORCH_ELEMENTWISE = ELEMENTWISE if BACKEND == "torch" else ELEMENTWISE[:1]
# A learned rule's network is made of tensors that no program knows, and its products are so large
# that one would gain nothing: it runs as it is written.
PROGRAMS = [name for name in WHOLE if not issubclass(getattr(kg, name), LearnedRule)]
TORCH_WHOLE = PROGRAMS if BACKEND == "torch" else PROGRAMS[:1]
only_torch = pytest.mark.skipif(BACKEND != "torch", reason="the engine of torch")


def arrays(seed: int, scale: float = 1.0, shapes: Any = SHAPES) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.asarray(scale * rng.normal(size=shape), "float32") for shape in shapes]


def clipped(gs: list[np.ndarray], optimizer: Any) -> list[np.ndarray]:
    norm = float(np.sqrt(sum(np.sum(g.astype("float64") ** 2) for g in gs)))
    factor = min(1.0, (optimizer.global_clipnorm or norm) / norm)
    return [(factor * g).astype("float32") for g in gs]


def stepped_alone(optimizer: Any, steps: int, shapes: Any = SHAPES) -> list[np.ndarray]:
    """Weights after steps of the rule as it is written, on one variable after the other."""
    ws = [ops.convert_to_tensor(a) for a in arrays(0, shapes=shapes)]
    slots, shared = optimizer.initial_slots(ws), optimizer.initial_shared(ws)
    for step in range(1, steps + 1):
        gs = [ops.convert_to_tensor(a) for a in clipped(arrays(step, 0.1, shapes), optimizer)]
        h = optimizer.hyperparameters(ops.convert_to_tensor(step))
        numbers, shared = optimizer.measure(ws, gs, slots, shared, h)
        h = h.replace(numbers=numbers, shared=shared)
        moved = [
            optimizer.move(w, g, *own, h=h, member=PLAIN)
            for w, g, own in zip(ws, gs, slots, strict=True)
        ]
        ws, slots = [m[0] for m in moved], [tuple(m[1:]) for m in moved]
    return [ops.convert_to_numpy(w) for w in ws]


def stepped(
    optimizer: Any, steps: int, first: int = 1, variables: Any = None, shapes: Any = SHAPES
) -> list[Any]:
    """Variables after steps as Keras takes them."""
    variables = variables or [keras.Variable(a) for a in arrays(0, shapes=shapes)]
    for step in range(first, first + steps):
        gs = [ops.convert_to_tensor(a) for a in arrays(step, 0.1, shapes)]
        optimizer.apply(gs, variables)
    return variables


def assert_close(variables: list[Any], expected: list[Any], tolerance: float = 2e-6) -> None:
    """Relative to each variable's largest entry; some roundings per step differ."""
    for variable, array in zip(variables, expected, strict=True):
        found = ops.convert_to_numpy(variable)
        largest = max(float(np.abs(array).max()), 1e-3)
        assert np.abs(found - array).max() / largest < tolerance


@pytest.mark.parametrize("arguments", [{}, {"weight_decay": 0.01, "global_clipnorm": 0.5}])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_packed_and_in_place_is_the_rule_on_one_variable(name: str, arguments: dict) -> None:
    """A rule that declares itself elementwise wrongly is caught here."""
    assert_close(stepped(made(name, **arguments), 3), stepped_alone(made(name, **arguments), 3))


@pytest.mark.parametrize("name", WHOLE)
def test_rules_on_whole_tensors_are_the_rule_on_one_variable(name: str) -> None:
    arguments = {"weight_decay": 0.01, "global_clipnorm": 0.5}
    found = stepped(made(name, **arguments), 3, shapes=SMALL)
    # Norms and decompositions add up in another order.
    assert_close(found, stepped_alone(made(name, **arguments), 3, SMALL), 1e-5)


def test_variables_of_other_groups_are_moved_by_their_own_rates() -> None:
    groups = {"fast": {"learning_rate": 10.0}, "bare": {"weight_decay": 0.0}}
    optimizer = kg.AdamW(0.01, weight_decay=0.1, groups=groups)
    names = ["fast", "bare", "plain", "fast_too"]
    variables = [keras.Variable(np.ones(3, "float32"), name=name) for name in names]
    optimizer.apply([ops.ones(3)] * 4, variables)
    # Adam's first step is the rate; decay is a tenth of it.
    expected = [1 - 0.1 * 1.1, 1 - 0.01, 1 - 0.01 * 1.1, 1 - 0.1 * 1.1]
    found = [float(ops.convert_to_numpy(v)[0]) for v in variables]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_hyperparameter_that_is_set_between_steps_is_followed() -> None:
    changed, fresh = kg.Adan(beta_1=0.9), kg.Adan(beta_1=0.5)
    variables = stepped(changed, 1)
    fresh.build(variables)
    for own, other in zip(fresh.variables, changed.variables, strict=True):
        own.assign(other)
    twin = [keras.Variable(v) for v in variables]
    fresh_twin = kg.Adan(beta_1=0.5)
    fresh_twin.build(twin)
    for own, other in zip(fresh_twin.variables, changed.variables, strict=True):
        own.assign(other)
    changed.beta_1 = 0.5
    stepped(changed, 1, first=2, variables=variables)
    stepped(fresh_twin, 1, first=2, variables=twin)
    assert_close(variables, [ops.convert_to_numpy(v) for v in twin], 1e-7)


def test_a_copied_model_goes_its_own_way() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile(optimizer=kg.AdaBelief(0.1), loss="mse")
    x, y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")
    model.fit(x, y, verbose=0)
    before = [ops.convert_to_numpy(v) for v in model.optimizer.variables]
    twin = copy.deepcopy(model)
    twin.fit(x, y, verbose=0)
    for a, own, other in zip(
        before, model.optimizer.variables, twin.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(a, ops.convert_to_numpy(own))
        assert own.name == "learning_rate" or (a != ops.convert_to_numpy(other)).any()


def test_gradients_are_left_as_they_were() -> None:
    optimizer = kg.Adam(global_clipnorm=0.1)
    variables = [keras.Variable(a) for a in arrays(0)]
    given = arrays(1)
    gs = [ops.convert_to_tensor(a) for a in given]
    optimizer.apply(gs, variables)
    for g, a in zip(gs, given, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(g), a)


# ---------------------------------------------------------------------- torch alone


@only_torch
@pytest.mark.parametrize("name", TORCH_ELEMENTWISE)
def test_every_elementwise_rule_becomes_a_program_of_its_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_gradopt.backend.torch import engine, layout
    from keras_gradopt.rule import Rule

    # Also where torch has the rule: schedules on a device leave it to the program.
    monkeypatch.setattr(getattr(kg, name), "kernel", Rule.kernel)
    # Blocks of many lengths, the last one shorter.
    monkeypatch.setattr(layout, "BLOCK", 4001)
    monkeypatch.setattr(engine, "BLOCK", 4001)
    optimizer = made(name, weight_decay=0.01, global_clipnorm=0.5)
    found = stepped(optimizer, 3)
    programs = engine.engine_of(optimizer)._programs
    assert programs
    assert all(programs.values())
    assert_close(found, stepped_alone(made(name, weight_decay=0.01, global_clipnorm=0.5), 3))


@only_torch
@pytest.mark.parametrize("name", TORCH_WHOLE)
def test_rules_on_whole_tensors_become_programs_of_each_way_they_go(name: str) -> None:
    from keras_gradopt.backend.torch import engine

    optimizer = made(name)
    # SOAP takes a first basis, goes on in it, and renews it after ten steps.
    stepped(optimizer, 12, shapes=SMALL)
    programs = engine.engine_of(optimizer)._programs
    assert programs
    assert all(programs.values())
    assert not engine.engine_of(optimizer)._refused
    assert max(map(len, programs.values())) == (3 if name == "SOAP" else 1)


SEGMENTS = [name for name in WHOLE if name in ("LARS", "Lamb", "Adafactor")]


@only_torch
@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("name", SEGMENTS)
def test_small_tensors_of_any_shapes_are_segments_of_a_vector(
    name: str, on_host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a rule sees a whole tensor only through its norms; Adafactor's, of its vectors."""
    from keras_gradopt.backend.torch import engine, host, layout

    monkeypatch.setattr(host, "reads", lambda device: on_host)
    # Several packs, and variables that are too large for any.
    monkeypatch.setattr(layout, "BLOCK", 150)
    monkeypatch.setattr(layout, "_DEVICE_PACK", 150)
    arguments = {"weight_decay": 0.01, "global_clipnorm": 0.5}
    shapes = [*SHAPES, (2,), (40,), (41,), (42,), (43,), (60, 1)]
    optimizer = made(name, **arguments)
    found = stepped(optimizer, 3, shapes=shapes)
    (known,) = engine.engine_of(optimizer)._layouts
    packs = [pack for _, _, packs in known._packs for pack in packs]
    packed = {i for pack in packs for i in pack.positions}
    small = {i for i, shape in enumerate(shapes) if shape and np.prod(shape) < 150}
    if name == "Adafactor":
        small = {i for i in small if len(shapes[i]) == 1}
    assert len(packs) > 1
    assert packed <= small
    assert len(packed) >= len(small) - 2
    monkeypatch.undo()
    assert_close(found, stepped_alone(made(name, **arguments), 3, shapes=shapes))


@only_torch
def test_equal_programs_over_other_shapes_are_one() -> None:
    from keras_gradopt.backend.torch import engine

    for name in ("Adafactor", "Lamb"):
        optimizer = made(name)
        shapes = [(m, n) for m in (3, 4, 9) for n in (5, 6, 8)]
        found = stepped(optimizer, 3, shapes=shapes)
        assert len(engine.engine_of(optimizer)._programs) == len(shapes)
        assert len(engine.engine_of(optimizer)._structures) <= 2, name
        assert_close(found, stepped_alone(made(name), 3, shapes=shapes))


@only_torch
def test_what_moves_between_coordinates_is_no_segment() -> None:
    """A sum along one axis, a product of matrices, and an order would differ in a vector."""
    import torch

    from keras_gradopt.backend.torch.program import record

    w = torch.linspace(0.1, 2.0, 9).reshape(3, 3)
    moves = [
        (lambda w: w / w.norm(), True),
        (lambda w: w - w.mean(), True),
        (lambda w: w - w.mean((0, 1)), True),
        (lambda w: w / w.abs().amax(), True),
        (lambda w: w - w.mean(0), False),
        (lambda w: w - w.mean((0, 1), keepdim=True), False),
        (lambda w: w @ w, False),
        (lambda w: w.cumsum(0), False),
        (lambda w: w.flip(0), False),
        (lambda w: w.sort().values, False),
        (lambda w: w.T + 0.0, False),
        (lambda w: w / w.var(), False),
        (lambda w: w * w.sum(dtype=torch.float64), False),
    ]
    for move, possible in moves:
        program = record(lambda v, s, move=move: (move(v[0]),), [w, w], [], blockwise=False)
        assert (program.for_segments is not None) == possible


@only_torch
@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "Adagrad"])
def test_fused_kernels_are_taken_where_torch_has_the_rule(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    kernels = {"SGD": "_fused_sgd_", "Adagrad": "_fused_adagrad_", "AdamW": "_fused_adamw_"}
    kernel = kernels.get(name, "_fused_adam_")
    original, seen = getattr(torch, kernel), []
    monkeypatch.setattr(torch, kernel, lambda *a, **k: (seen.append(1), original(*a, **k)))
    optimizer = made(name, **({"momentum": 0.9} if name == "SGD" else {}))
    stepped(optimizer, 1)
    assert seen


@only_torch
def test_a_subclass_with_another_rule_does_not_get_the_kernel_of_its_base() -> None:
    class Still(kg.Adam):
        def update(self, w: Any, g: Any, *slots: Any, h: Any) -> tuple:
            return (w, *slots)

    variables = stepped(Still(), 1)
    assert_close(variables, arrays(0), 1e-9)


@only_torch
def test_memory_that_was_moved_behind_the_engine_is_noticed() -> None:
    optimizer = kg.AdaBelief()
    variables = stepped(optimizer, 1)
    for variable in [*optimizer.variables, *variables]:
        # As torch's `Module.to` does.
        variable._value.data = variable._value.data.clone()
    stepped(optimizer, 2, first=2, variables=variables)
    assert_close(variables, stepped_alone(kg.AdaBelief(), 3))


@only_torch
@pytest.mark.parametrize("name", ["Adam", "AdaBelief"])
def test_weights_and_gradients_may_lie_in_any_order(name: str) -> None:
    import torch

    def turned(a: np.ndarray) -> Any:
        return torch.from_numpy(np.copy(a.T, order="C")).permute(tuple(reversed(range(a.ndim))))

    optimizer = made(name)
    variables = [keras.Variable(a) for a in arrays(0)]
    for variable, a in zip(variables, arrays(0), strict=True):
        variable._value.data = turned(a)
    for step in (1, 2, 3):
        optimizer.apply([turned(a) for a in arrays(step, 0.1)], variables)
    assert_close(variables, stepped_alone(made(name), 3))


@only_torch
def test_a_program_refuses_scalars_that_it_would_be_wrong_for() -> None:
    """Factors are drawn out of roots, and one of a sum's two out of the sum."""
    import torch

    from keras_gradopt.backend.torch.program import record

    def move(vectors: Any, scalars: Any) -> tuple:
        (w, _), (a, b) = vectors, scalars
        return (torch.sqrt(a * w) + a * torch.exp(w) + b * w,)

    def scalars(a: float, b: float) -> list[Any]:
        return [torch.tensor(a), torch.tensor(b)]

    w = torch.linspace(0.1, 2.0, 12)
    program = record(move, [w, w], scalars(0.5, 0.25), blockwise=True)
    assert program.prepare(scalars(-0.5, 0.25), 5) is None
    moved = w.clone()
    program.prepare(scalars(0.3, 0.2), 5)(moved, w)
    expected = np.sqrt(0.3 * w.numpy()) + 0.3 * np.exp(w.numpy()) + 0.2 * w.numpy()
    np.testing.assert_allclose(moved.numpy(), expected, rtol=1e-6)


@only_torch
def test_state_takes_no_more_memory_than_its_slots() -> None:
    optimizer = kg.Adam()
    stepped(optimizer, 2)
    storages = {}
    for variable in optimizer.variables:
        storage = variable._value.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    numbers = sum(int(np.prod(shape)) for shape in SHAPES)
    scalars = 2 * 8  # the count of steps and the rate
    assert sum(storages.values()) <= 2 * 4 * numbers + scalars


@only_torch
def test_programs_call_few_operations() -> None:
    """Scalar factors ride along: what Adam does to each number takes six calls."""
    from keras_gradopt.backend.torch import engine

    for name, most in [("AdaBelief", 7), ("Lion", 4), ("Adan", 11), ("RMSprop", 5)]:
        optimizer = made(name)
        stepped(optimizer, 2)
        ((placed, *_), *_) = engine.engine_of(optimizer)._programs.values()
        calls = min(v.source.split("def blocks")[0].count("torch.") for v in _variants(placed))
        assert calls <= most, name


def _variants(placed: Any) -> list[Any]:
    return list(placed.program._variants.values())


@only_torch
@pytest.mark.parametrize("name", [*TORCH_ELEMENTWISE, *SEGMENTS, "Muon"])
def test_on_a_device_no_step_waits_for_a_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: all is done as if the host could not read, and reading raises."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from keras_gradopt.backend.torch import host

    class NoReading(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            # The second is a copy of a number from the host.
            assert not {"_local_scalar_dense", "lift_fresh"} & set(str(func).split("."))
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(host, "reads", lambda device: False)
    arguments = {"weight_decay": 0.01, "global_clipnorm": 0.5}
    optimizer = made(name, learning_rate=kg.schedules.CosineDecay(0.01, 10), **arguments)
    variables = [keras.Variable(a) for a in arrays(0)]
    optimizer.build(variables)
    for step in (1, 2, 3):
        gs = [torch.from_numpy(a) for a in arrays(step, 0.1)]
        # The first step records the rule, with what numbers it brings along.
        with contextlib.nullcontext() if step == 1 else NoReading():
            optimizer.apply(gs, variables)
    monkeypatch.undo()
    twin = made(name, learning_rate=kg.schedules.CosineDecay(0.01, 10), **arguments)
    assert_close(variables, stepped_alone(twin, 3))


@only_torch
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TORCH_ELEMENTWISE)
def test_compiled_arithmetic_is_the_rule_on_one_variable(name: str) -> None:
    import torch

    torch._dynamo.reset()
    arguments = {"weight_decay": 0.01, "global_clipnorm": 0.5}
    found = stepped(made(name, jit_compile=True, **arguments), 3)
    assert_close(found, stepped_alone(made(name, **arguments), 3))
