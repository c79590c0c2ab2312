"""Sequences and systems in time: memory, generated grammars, modular sums, simulated control."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from recommender.knowledge.tasks import Data
from recommender.knowledge.tasks.functions import generated
from recommender.knowledge.tasks.losses import cross_entropy, squared_error
from recommender.knowledge.tasks.probabilistic import mean_of_outputs
from recommender.knowledge.tasks.reading import Array, split

register = keras.saving.register_keras_serializable(package="gradopt_tasks")

SYMBOLS = 8  # of the Markov chain
WORD, LETTERS = 6, 10  # of the sequences that repeat a word
MODULUS = 23
STATES, CONTROLS = 12, 4  # of the linear system


# Sequences


def _adding() -> Data:
    """Twenty numbers, two of them marked; their sum is asked for (Hochreiter, Schmidhuber 1997)."""
    rng = np.random.default_rng(51)
    numbers = rng.uniform(-1, 1, (2500, 20))
    marks = np.zeros_like(numbers)
    rows = np.arange(len(numbers))
    marks[rows, rng.integers(0, 10, len(rows))] = 1
    marks[rows, rng.integers(10, 20, len(rows))] = 1
    y = (numbers * marks).sum(axis=1, keepdims=True)
    x = np.stack([numbers, marks], axis=-1)
    return split(x.astype(np.float32), y.astype(np.float32), 500)


def _gated(features: int, length: int) -> keras.Model:
    return keras.Sequential([keras.Input((length, features)), layers.GRU(16), layers.Dense(1)])


def _markov() -> Data:
    """Sequences of a chain whose next symbol depends on the last two; each is to be predicted."""
    rng = np.random.default_rng(52)
    chances = rng.dirichlet(np.full(SYMBOLS, 0.25), (SYMBOLS, SYMBOLS)).cumsum(axis=-1)
    rows, length = 1500, 17
    words = rng.integers(0, SYMBOLS, (rows, length))
    for t in range(2, length):
        below = chances[words[:, t - 2], words[:, t - 1]] < rng.random((rows, 1))
        words[:, t] = np.minimum(below.sum(axis=1), SYMBOLS - 1)
    words = words.astype(np.int32)
    return split(words[:, :-1], words[:, 1:], 300)


def _symbol_memory() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((16,), dtype="int32"),
            layers.Embedding(SYMBOLS, 8),
            layers.LSTM(20, return_sequences=True),
            layers.Dense(SYMBOLS),
        ]
    )


def _repeated_words() -> Data:
    """A random word, then the same with some slips, whose letters are to be predicted."""
    rng = np.random.default_rng(53)
    words, slips = rng.integers(0, LETTERS, (2, 3000, WORD)).astype(np.int32)
    again = np.where(rng.random(words.shape) < 0.05, slips, words)
    x = np.concatenate([words, again[:, :-1]], axis=1)
    return split(x, again[:, 1:], 400)


def _sums() -> Data:
    """All (a + b) mod 23; a fifth of the pairs is held out (Power et al. 2022, Grokking)."""
    a, b = np.divmod(np.arange(MODULUS**2, dtype=np.int32), MODULUS)
    x = np.stack([a, b, np.full_like(a, MODULUS)], axis=1)  # the last token asks
    return split(x, (a + b) % MODULUS, 106)


@register
class LearntPositions(layers.Layer):
    """Adds a vector learnt for each place of a sequence."""

    def build(self, shape: Any) -> None:
        """As BERT starts them: normal with deviation 0.02."""
        start = keras.initializers.RandomNormal(stddev=0.02)
        self.places = self.add_weight(shape=shape[1:], initializer=start, name="places")

    def call(self, x: Any) -> Any:
        """(rows, length, width) -> the same."""
        return x + self.places

    def compute_output_shape(self, shape: Any) -> Any:
        """As it comes."""
        return shape


def _transformer(tokens: int, length: int, asked: int, classes: int, blocks: int) -> keras.Model:
    """A causal transformer whose last `asked` places answer."""
    width = 24
    x = keras.Input((length,), dtype="int32")
    h = LearntPositions()(layers.Embedding(tokens, width)(x))
    for _ in range(blocks):
        n = layers.LayerNormalization()(h)
        attend = layers.MultiHeadAttention(num_heads=2, key_dim=width // 2)
        h = layers.Add()([h, attend(n, n, use_causal_mask=True)])
        n = layers.LayerNormalization()(h)
        n = layers.Dense(width)(layers.Dense(2 * width, activation="gelu")(n))
        h = layers.Add()([h, n])
    h = h[:, -1] if asked == 1 else h[:, -asked:]
    return keras.Model(x, layers.Dense(classes)(layers.LayerNormalization()(h)))


# Control


@register
class PendulumCost(layers.Layer):
    """Mean cost of 1.5 simulated seconds of a pendulum under a small network as policy.

    The states are angle (0 is upright) and velocity; the torque is bounded by `strength`, which is
    too weak to lift the pendulum from the side at once.
    """

    steps, seconds, gravity, strength = 25, 0.06, 10.0, 6.0

    def build(self, shape: Any) -> None:
        """A policy of one hidden layer of tanh."""
        self.hidden = layers.Dense(32, activation="tanh")
        self.torque = layers.Dense(1)
        self.hidden.build((None, 3))
        self.torque.build((None, 32))

    def call(self, state: Any) -> Any:
        """(rows, 2) -> (rows, 1)."""

        def step(carry: Any, _: Any) -> tuple[Any, None]:
            angle, velocity, cost = carry
            seen = ops.concatenate([ops.cos(angle), ops.sin(angle), velocity / 4.0], axis=-1)
            torque = ops.tanh(self.torque(self.hidden(seen)))
            velocity = velocity + self.seconds * (
                self.gravity * ops.sin(angle) + self.strength * torque
            )
            angle = angle + self.seconds * velocity
            now = 1.0 - ops.cos(angle) + 0.02 * velocity * velocity + 0.01 * torque * torque
            return (angle, velocity, cost + now / self.steps), None

        begin = (state[:, :1], state[:, 1:], ops.zeros_like(state[:, :1]))
        (_, _, cost), _ = ops.scan(step, begin, length=self.steps)
        return cost

    def compute_output_shape(self, shape: Any) -> Any:
        """One cost a row."""
        return (shape[0], 1)


@register
class RegulatorCost(layers.Layer):
    """Mean quadratic cost of 25 steps of a linear system under linear feedback, which is learnt."""

    steps = 25

    def build(self, shape: Any) -> None:
        """Feedback starts near 0."""
        start = keras.initializers.RandomNormal(stddev=0.01)
        self.gain = self.add_weight(shape=(STATES, CONTROLS), initializer=start, name="gain")

    def call(self, state: Any) -> Any:
        """(rows, 12) -> (rows, 1)."""
        motion, reach, weight = map(ops.convert_to_tensor, _linear_system())

        def step(carry: Any, _: Any) -> tuple[Any, None]:
            state, cost = carry
            control = ops.matmul(state, self.gain)
            state = ops.matmul(state, motion) + ops.matmul(control, reach)
            now = ops.sum(weight * state * state, axis=-1, keepdims=True)
            now = now + 0.1 * ops.sum(control * control, axis=-1, keepdims=True)
            return (state, cost + now / (self.steps * STATES)), None

        (_, cost), _ = ops.scan(step, (state, ops.zeros_like(state[:, :1])), length=self.steps)
        return cost

    def compute_output_shape(self, shape: Any) -> Any:
        """One cost a row."""
        return (shape[0], 1)


def _linear_system() -> tuple[Array, Array, Array]:
    """Motion with rotations and slow growth, few controls, states of unequal weight."""
    rng = np.random.default_rng(54)
    turn, _ = np.linalg.qr(rng.normal(size=(STATES, STATES)))
    motion = 0.9 * turn + 0.15 * np.eye(STATES)
    reach = rng.normal(size=(CONTROLS, STATES)) / np.sqrt(STATES)
    weight = 10.0 ** rng.uniform(-1, 1, STATES)
    first, second, third = (v.astype(np.float32) for v in (motion, reach, weight))
    return first, second, third


def _starts(*deviations: float) -> Data:
    rng = np.random.default_rng(55)
    x = (rng.normal(size=(1300, len(deviations))) * deviations).astype(np.float32)
    return split(x, np.zeros((len(x), 1), np.float32), 276)


def _controlled(kind: type[layers.Layer], states: int) -> keras.Model:
    state = keras.Input((states,))
    return keras.Model(state, kind()(state))


def _hanging() -> Data:
    """Angles all around, moderate velocities."""
    x, y, x_val, y_val = _starts(1.0, 1.0)
    for rows in (x, x_val):
        rows[:, 0] = np.random.default_rng(len(rows)).uniform(-np.pi, np.pi, len(rows))
    return x, y, x_val, y_val


attending = partial(generated, loss=cross_entropy, architecture="attention")

TASKS = (
    generated(
        name="adding_problem_gru",
        summary="Sum of the two marked numbers of twenty, by a GRU",
        load=_adding,
        build=partial(_gated, 2, 20),
        loss=squared_error,
        batch_size=32,
        epochs=60,
        source="adding_problem",
        architecture="recurrent",
        traits=("plateau",),
    ),
    generated(
        name="markov_chain_lstm",
        summary="Next symbol of a Markov chain of second order, by an LSTM",
        load=_markov,
        build=_symbol_memory,
        loss=cross_entropy,
        batch_size=32,
        epochs=80,
        source="markov_chain",
        architecture="recurrent",
    ),
    attending(
        name="repeated_word_transformer",
        summary="Letters of a repeated random word, by a causal transformer of two blocks",
        load=_repeated_words,
        build=partial(_transformer, LETTERS, 2 * WORD - 1, WORD - 1, LETTERS, 2),
        batch_size=32,
        epochs=15,
        source="repeated_words",
        traits=("label_noise",),
    ),
    attending(
        name="modular_sum_transformer",
        summary="Sums modulo 23 of pairs never seen, by a transformer of one block",
        load=_sums,
        build=partial(_transformer, MODULUS + 1, 3, 1, MODULUS, 1),
        batch_size=32,
        epochs=300,
        source="modular_sums",
        traits=("tiny", "grokking"),
    ),
    generated(
        name="pendulum_swing_up",
        summary="A pendulum swung up by a small policy through 25 simulated steps",
        load=_hanging,
        build=partial(_controlled, PendulumCost, 2),
        loss=lambda: mean_of_outputs,
        batch_size=32,
        epochs=60,
        source="pendulum",
        architecture="control",
    ),
    generated(
        name="regulator_12_states",
        summary="Linear feedback for a linear system of 12 states and quadratic cost",
        load=partial(_starts, *[1.0] * STATES),
        build=partial(_controlled, RegulatorCost, STATES),
        loss=lambda: mean_of_outputs,
        batch_size=32,
        epochs=60,
        source="linear_regulator",
        architecture="control",
    ),
)
