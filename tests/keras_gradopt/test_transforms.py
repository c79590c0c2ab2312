"""Gradient transforms against optax, pytorch-optimizer and NumPy, and on any optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import optax
import pytest
import smartclip
import torch
from keras import ops
from pytorch_optimizer.optimizer.gradient_centralization import centralize_gradient

import keras_gradopt as kg
from keras_gradopt import registry
from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.tensors import global_norm
from tests.keras_gradopt.problems import (
    assert_close,
    gradients,
    network,
    regression_data,
    start_weights,
    train,
    values,
)

TRANSFORMS = registry.members("keras_gradopt.transforms")
Arrays = list[np.ndarray]


def centralized(tree: Sequence[Any]) -> Arrays:
    """As pytorch-optimizer does it, where the first axis of a kernel is that of the outputs."""
    found = []
    for g in tree:
        outputs_first = torch.tensor(np.moveaxis(np.asarray(g), -1, 0) if np.ndim(g) else g)
        centralize_gradient(outputs_first)
        found.append(np.moveaxis(outputs_first.numpy(), 0, -1) if np.ndim(g) else np.asarray(g))
    return found


def norm_of(tree: Sequence[Any]) -> float:
    """Joint Euclidean norm, in double precision."""
    return float(np.sqrt(sum((np.asarray(g, "float64") ** 2).sum() for g in tree)))


def auto_clip(percentile: float, history_length: int) -> optax.GradientTransformation:
    """AutoClip with a bounded history, with NumPy's percentile in double precision."""

    def update(tree: Sequence[Any], norms: list, _: Any = None) -> tuple[Arrays, list]:
        norms = [*norms, norm_of(tree)][-history_length:]
        factor = min(1.0, np.percentile(norms, percentile) / norms[-1])
        return [np.asarray(g) * np.float32(factor) for g in tree], norms

    return optax.GradientTransformation(lambda _: [], update)


# Arguments whose bounds some gradients pass and some do not, and the peer.
PEERS: dict[str, tuple[dict[str, Any], Any]] = {
    "AdaptiveClip": ({"clipping": 0.5, "epsilon": 1.0}, optax.adaptive_grad_clip(0.5, eps=1.0)),
    "Centralize": ({}, optax.stateless(lambda tree, _: centralized(tree))),
    "ClipByGlobalNorm": ({"norm": 1.5}, optax.clip_by_global_norm(1.5)),
    "ClipByNorm": (
        {"norm": 1.5},
        # optax clips blocks of rows; per variable it is the clipping of a tree with one leaf.
        optax.stateless(
            lambda tree, _: [optax.clip_by_global_norm(1.5).update([g], None)[0][0] for g in tree]
        ),
    ),
    "ClipByValue": ({"value": 0.4}, optax.clip(0.4)),
    "PercentileClip": ({"percentile": 30.0, "history_length": 5}, auto_clip(30.0, 5)),
}
# Transforms without a peer, each with the file that tests it.
ELSEWHERE = {"AddNoise": "test_noise.py"}
every_transform = pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - set(ELSEWHERE)))
# What gradients are multiplied by from step to step, so that norms rise as well as fall.
SIZES = (1.0, 3.0, 0.5, 2.0)


def sized_gradients(ws: Arrays, step: int) -> Arrays:
    """Gradients of the bowl in `problems`, of another size at each step."""
    return [np.float32(SIZES[step % len(SIZES)]) * g for g in gradients(ws, step)]


def applied(
    transform: Any, gs: Sequence[Any], ws: Sequence[Any] = (), shared: Any = None
) -> tuple[Arrays, dict[str, Any]]:
    """A transform's new gradients, as arrays, and new state; from its first state by default."""
    if shared is None:
        shared = {slot.name: slot.start(None) for slot in transform.shared_slots()}
    h = Hyperparameters(step=1.0, **transform.resolve(0))
    tensors = [[ops.convert_to_tensor(x) for x in xs] for xs in (gs, ws)]
    found, shared = transform.apply(*tensors, shared, h)
    return [ops.convert_to_numpy(g) for g in found], shared


@every_transform
def test_it_equals_its_peer(name: str) -> None:
    arguments, peer = PEERS[name]
    ws = start_weights()
    gs = gradients(ws, 0)
    ours, _ = applied(TRANSFORMS[name](**arguments), gs, ws)
    theirs, _ = peer.update(gs, peer.init(ws), ws)
    for a, e, g in zip(ours, theirs, gs, strict=True):
        # Float32 next to the largest entry: what is left of a difference may be tiny.
        np.testing.assert_allclose(a, e, rtol=1e-6, atol=2e-7 * np.abs(g).max())
        assert a.shape == g.shape


@every_transform
def test_any_optimizer_takes_it_saves_it_and_follows_the_peer_with_it(name: str) -> None:
    arguments, peer = PEERS[name]
    optimizer = kg.SGD(0.05, gradient_transforms=[TRANSFORMS[name](**arguments)])
    optimizer = kg.SGD.from_config(optimizer.get_config())
    variables = [keras.Variable(w) for w in start_weights()]
    ws = start_weights()
    state, ours, theirs, changed = peer.init(ws), [], [], 0
    for step in range(12):
        gs = sized_gradients(values(variables), step)
        optimizer.apply([ops.convert_to_tensor(g) for g in gs], variables)
        ours.append(values(variables))
        # The same step by hand, the peer on the gradients before it.
        gs = sized_gradients(ws, step)
        new, state = peer.update(gs, state, ws)
        ws = [w - np.float32(0.05) * np.asarray(g) for w, g in zip(ws, new, strict=True)]
        theirs.append(ws)
        changed += any(not np.array_equal(a, b) for a, b in zip(gs, new, strict=True))
    assert changed >= 4, "the peer changes too few gradients to compare"
    # Twelve steps in float32, next to weights of order 1.
    assert_close(ours, theirs, 2e-6)


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("clipnorm", "ClipByNorm"),
        ("clipvalue", "ClipByValue"),
        ("global_clipnorm", "ClipByGlobalNorm"),
    ],
)
def test_keras_arguments_are_the_same_transforms(argument: str, name: str) -> None:
    bound = next(iter(PEERS[name][0].values()))
    by_argument = train(kg.SGD(0.1, **{argument: bound}), 5)
    by_transform = train(kg.SGD(0.1, gradient_transforms=[TRANSFORMS[name](bound)]), 5)
    assert_close(by_argument, by_transform, 0.0)
    assert_close(by_argument, train(keras.optimizers.SGD(0.1, **{argument: bound}), 5), 1e-6)


@every_transform
def test_a_zero_gradient_stays_zero(name: str) -> None:
    arguments, _ = PEERS[name]
    zeros = [np.zeros(3, "float32")]
    (g,), _ = applied(TRANSFORMS[name](**arguments), zeros, zeros)
    np.testing.assert_array_equal(g, np.zeros(3))


@pytest.mark.parametrize(
    ("name", "argument", "refused"),
    [
        ("AdaptiveClip", "clipping", (0.0, -1.0, float("nan"), "big")),
        ("AdaptiveClip", "epsilon", (0.0, -1.0, float("nan"), "big")),
        ("Centralize", "least_rank", (1, 2.5, float("nan"), "big")),
        ("ClipByGlobalNorm", "norm", (0.0, -1.0, float("nan"), "big")),
        ("ClipByNorm", "norm", (0.0, -1.0, float("nan"), "big")),
        ("ClipByValue", "value", (0.0, -1.0, float("nan"), "big")),
        ("PercentileClip", "percentile", (-1.0, 100.5, float("nan"), "big")),
        ("PercentileClip", "history_length", (0, 2.5, float("nan"), "big")),
    ],
)
def test_bad_arguments_are_named(name: str, argument: str, refused: tuple) -> None:
    for value in refused:
        with pytest.raises(ValueError, match=f"{argument} must be"):
            TRANSFORMS[name](**{argument: value})


def test_adaptive_clip_takes_all_axes_but_the_last_for_a_unit_of_any_rank() -> None:
    """Three axes are a convolution over time, where optax has to be told the axes."""
    rng = np.random.default_rng(0)
    for shape, axes in [((3, 4, 2), (0, 1)), ((2, 2, 2, 3, 2), (0, 1, 2, 3)), ((5, 1), (0,))]:
        w, g = rng.normal(size=(2, *shape)).astype("float32")
        (ours,), _ = applied(TRANSFORMS["AdaptiveClip"](0.7), [g], [w])
        peer = optax.adaptive_grad_clip(0.7, axis=axes)
        (theirs,), _ = peer.update([g], peer.init([w]), [w])
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (4, 1), (1, 1, 4)])
def test_adaptive_clip_takes_scalars_and_vectors_whole(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    w, g = (np.asarray(x, "float32") for x in rng.normal(size=(2, *shape)))
    (ours,), _ = applied(TRANSFORMS["AdaptiveClip"](0.05), [g], [w])
    peer = optax.adaptive_grad_clip(0.05)
    (theirs,), _ = peer.update([g], peer.init([w]), [w])
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert np.shape(ours) == shape


def test_adaptive_clip_lets_weights_leave_zero() -> None:
    """By hand: the bound is 0.1 * epsilon = 0.05, the gradient's norm 5."""
    transform = TRANSFORMS["AdaptiveClip"](0.1, epsilon=0.5)
    (g,), _ = applied(transform, [np.array([3.0, 4.0], "float32")], [np.zeros(2, "float32")])
    np.testing.assert_allclose(g, [0.03, 0.04], rtol=1e-6)


def test_centralize_keeps_what_has_no_mean_to_lose() -> None:
    """Scalars, vectors, units of one entry, and below `least_rank` kernels of few axes."""
    rng = np.random.default_rng(2)
    gs = [np.asarray(rng.normal(size=s), "float32") for s in ((), (4,), (1, 4), (1, 1, 4), (5, 4))]
    kept, _ = applied(TRANSFORMS["Centralize"](), gs)
    for a, g in zip(kept[:4], gs[:4], strict=True):
        np.testing.assert_array_equal(a, g)
    assert not np.array_equal(kept[4], gs[4])
    np.testing.assert_array_equal(applied(TRANSFORMS["Centralize"](3), gs)[0][4], gs[4])


def test_centralize_keeps_the_sum_of_each_units_weights() -> None:
    """The paper's invariant: sums over all axes but the last do not move."""
    start = start_weights()
    end = train(kg.SGD(0.1, gradient_transforms=[TRANSFORMS["Centralize"]()]), 10)[-1]
    for a, w in zip(end, start, strict=True):
        if w.ndim >= 2:
            axes = tuple(range(w.ndim - 1))
            np.testing.assert_allclose(a.sum(axes), w.sum(axes), atol=1e-5)
            assert np.abs(a - w).max() > 0.1


@pytest.mark.parametrize("percentile", [0.0, 10.0, 50.0, 87.5, 100.0])
@pytest.mark.parametrize("history_length", [1, 2, 7, 40])
def test_the_percentile_is_that_of_numpy(percentile: float, history_length: int) -> None:
    """Also while the history fills, and after it wrapped; the bound is seen on a huge gradient."""
    transform = TRANSFORMS["PercentileClip"](percentile, history_length)
    peer = auto_clip(percentile, history_length)
    shared, norms = None, peer.init(None)
    for size in np.random.default_rng(3).lognormal(sigma=2.0, size=25).astype("float32"):
        ours, shared = applied(transform, [np.array([3 * size, -4 * size])], shared=shared)
        theirs, norms = peer.update([np.array([3 * size, -4 * size])], norms)
        # Float32: the norm, the place between two norms, the quotient.
        np.testing.assert_allclose(ours[0], theirs[0], rtol=2e-6)


def test_the_percentile_may_follow_a_schedule() -> None:
    """By hand: the norms are 1, 3, 5, 7; the bounds their highest, then their median."""
    w = keras.Variable(np.zeros(1, "float32"))
    percentile = kg.schedules.Sequential([100.0, 50.0], [2])
    clip = TRANSFORMS["PercentileClip"](percentile)
    optimizer = kg.SGD(1.0, gradient_transforms=[clip])
    path = []
    for size in (1.0, 3.0, 5.0, 7.0):
        optimizer.apply([ops.full((1,), -size)], [w])
        path.append(float(ops.convert_to_numpy(w.value)[0]))
    assert path == [1.0, 4.0, 7.0, 11.0]


def test_norms_that_are_not_finite_stay_out_of_the_history() -> None:
    transform = TRANSFORMS["PercentileClip"](50.0, 4)
    sizes = np.array([np.inf, 1.0, np.nan, 3.0, 5.0], "float32")
    shared, bounds = None, []
    for size in sizes:
        (g,), shared = applied(transform, [size[None]], shared=shared)
        bounds.append(float(g[0]))
    assert not np.isfinite(bounds[0])
    assert not np.isfinite(bounds[2])
    # Medians of the finite ones among the last four: of 1; of 1, 3; of 1, 3, 5.
    np.testing.assert_allclose([bounds[1], bounds[3], bounds[4]], [1.0, 2.0, 3.0])
    assert np.all(np.isfinite(ops.convert_to_numpy(shared["norms"])))


def test_the_history_grows_by_one_norm_per_real_step_under_accumulation() -> None:
    """By hand: means of norm 2, 6, 1 and medians of the last two 2, 4, 3.5, so steps 2, 4, 1."""
    w = keras.Variable(np.zeros(1, "float32"))
    clip = TRANSFORMS["PercentileClip"](50.0, 2)
    optimizer = kg.SGD(1.0, gradient_accumulation_steps=2, gradient_transforms=[clip])
    path = []
    for size in (1.0, 3.0, 4.0, 8.0, 0.5, 1.5):
        optimizer.apply([ops.full((1,), -size)], [w])
        path.append(float(ops.convert_to_numpy(w.value)[0]))
    assert path == [0.0, 2.0, 2.0, 6.0, 6.0, 7.0]


def test_a_checkpoint_keeps_the_history(tmp_path: Path) -> None:
    x, y = regression_data()
    model = network()
    clip = TRANSFORMS["PercentileClip"](30.0, 20)
    model.compile(kg.SGD(0.05, gradient_transforms=[clip]), "mse")
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(x, y[:, :1], **fit)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    forgetful = keras.models.load_model(tmp_path / "model.keras")
    (history,) = [v for v in forgetful.optimizer.variables if "norms" in v.name]
    assert np.sum(ops.convert_to_numpy(history.value) >= 0) == 8  # 64 examples in eights
    history.assign(np.full(20, -1.0))
    for other in (model, loaded, forgetful):
        other.fit(x, y[:, :1], **fit)
    for a, b in zip(
        values([*model.variables, *model.optimizer.variables]),
        values([*loaded.variables, *loaded.optimizer.variables]),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(values(model.variables)[0], values(forgetful.variables)[0])


@every_transform
def test_it_trains_half_precision_weights_in_a_compiled_step(name: str) -> None:
    arguments, _ = PEERS[name]
    x, y = regression_data()
    keras.config.set_dtype_policy("bfloat16")
    model = network()
    clip = TRANSFORMS[name](**arguments)
    jit_compile = keras.backend.backend() != "torch"  # which would need a C++ compiler
    model.compile(kg.SGD(0.05, gradient_transforms=[clip]), "mse", jit_compile=jit_compile)
    losses = model.fit(x, y[:, :1], epochs=4, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_one_of_the_three_clipping_arguments_at_a_time() -> None:
    with pytest.raises(ValueError, match="Only one of"):
        kg.SGD(clipnorm=1.0, clipvalue=1.0)


def test_what_is_no_transform_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gradient_transforms takes objects of"):
        kg.SGD(gradient_transforms=[lambda g: g])


def test_the_percentile_clip_bounds_norms_as_smartclip_does() -> None:
    percentile, length = 40.0, 6
    transform = TRANSFORMS["PercentileClip"](percentile, length)
    peer = smartclip.AutoClip(
        mode="percentile", percentile=percentile, history="window", window_size=length
    )
    shared = {s.name: s.start(None) for s in transform.shared_slots()}
    h = Hyperparameters(step=1, percentile=percentile)
    for number in range(15):
        gs = [keras.ops.convert_to_tensor(g) for g in gradients(start_weights(), number)]
        clipped, shared = transform.apply(gs, gs, shared, h)
        norm = float(keras.ops.convert_to_numpy(global_norm(gs)))
        peer.observe(norm)
        ours = float(keras.ops.convert_to_numpy(global_norm(clipped)))
        assert ours == pytest.approx(min(norm, peer.threshold()), rel=1e-6)
