"""What Keras writes passes the gate, with its facts; the gate itself loads nothing."""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api import gate
from api.gate import LossFacts, Refused, allowed
from tests.api.mutations import mutated

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def keras() -> Any:
    import keras

    return keras


# --- what Keras writes passes ---


def dense(k: Any) -> Any:
    return k.Sequential(
        [
            k.Input((8,)),
            k.layers.Normalization(mean=[3e9] * 8, variance=[1e18] * 8),
            k.layers.Dense(
                4,
                activation="relu",
                kernel_regularizer=k.regularizers.L1L2(1e-4, 1e-3),
                kernel_initializer=k.initializers.RandomNormal(stddev=0.1, seed=2_000_000_000),
                bias_initializer="ones",
                kernel_constraint=k.constraints.MaxNorm(2.0),
            ),
            k.layers.BatchNormalization(),
            k.layers.Activation(k.activations.gelu),
            k.layers.LeakyReLU(),
            k.layers.PReLU(),
            k.layers.Dropout(0.5, seed=7),
            k.layers.Dense(
                3,
                activation=k.activations.softmax,
                bias_initializer=k.initializers.Constant(np.arange(3.0)),
            ),
        ]
    )


def images(k: Any) -> Any:
    return k.Sequential(
        [
            k.Input((12, 12, 3)),
            k.layers.Rescaling(1 / 255),
            k.layers.Pipeline([k.layers.RandomFlip("horizontal"), k.layers.RandomContrast(0.1)]),
            k.layers.Conv2D(4, 3, padding="same", activation="relu"),
            k.layers.DepthwiseConv2D(3),
            k.layers.SeparableConv2D(4, 3),
            k.layers.MaxPooling2D(),
            k.layers.GroupNormalization(2),
            k.layers.SpatialDropout2D(0.1),
            k.layers.Conv2DTranspose(2, 3),
            k.layers.GlobalAveragePooling2D(),
            k.layers.Dense(2),
        ]
    )


def volumes_and_signals(k: Any) -> Any:
    volume, signal = k.Input((6, 6, 6, 1)), k.Input((12, 2))
    v = k.layers.Flatten()(k.layers.AveragePooling3D(2)(k.layers.Conv3D(2, 3)(volume)))
    s = k.layers.Conv1D(3, 3, padding="causal")(signal)
    s = k.layers.GlobalMaxPooling1D()(k.layers.SeparableConv1D(3, 3)(s))
    return k.Model([volume, signal], k.layers.Dense(1)(k.layers.Concatenate()([v, s])))


def sequences(k: Any) -> Any:
    tokens = k.Input((6,), dtype="int32")
    h = k.layers.Embedding(20, 4, mask_zero=True)(tokens)
    h = k.layers.Bidirectional(k.layers.GRU(3, return_sequences=True))(h)
    h = k.layers.RNN([k.layers.LSTMCell(3), k.layers.GRUCell(2)], return_sequences=True)(h)
    h = k.layers.Concatenate()([h, k.layers.TimeDistributed(k.layers.Dense(4))(h)])  # of masks too
    return k.Model(tokens, k.layers.Dense(1)(k.layers.LSTM(3)(h)))


def transformer(k: Any) -> Any:
    rows = k.Input((6, 4))
    attended = k.layers.MultiHeadAttention(2, 2)(rows, rows)
    h = k.layers.LayerNormalization()(k.layers.Add()([rows, attended]))
    h = k.layers.EinsumDense("abc,cd->abd", (6, 5), bias_axes="d")(h)
    h = k.layers.Permute((2, 1))(k.layers.Reshape((5, 6))(h))
    return k.Model(rows, k.layers.Softmax()(k.layers.Dense(2)(k.layers.Flatten()(h))))


def nested(k: Any) -> Any:
    inner = k.Sequential([k.Input((4,)), k.layers.Dense(4), k.layers.ReLU()])
    inner.compile(loss="mse")  # its compiled state is not kept either
    x = k.Input((4,))
    middle = k.Model(x, inner(k.layers.Dense(4)(x)))
    y = k.Input((4,))
    return k.Model(y, k.layers.Dense(2)(middle(y) + y))


def half_precision(k: Any) -> Any:
    policy = k.DTypePolicy("mixed_bfloat16")
    return k.Sequential(
        [
            k.Input((4,)),
            k.layers.Dense(4, dtype=policy),
            k.layers.SpectralNormalization(k.layers.Dense(3, dtype=policy)),
            k.layers.Dense(1, dtype="float32"),
        ]
    )


MODELS = [
    dense,
    images,
    volumes_and_signals,
    sequences,
    transformer,
    nested,
    half_precision,
]


def skeleton(model: Any) -> tuple[list[str], list[tuple[int, ...]]]:
    """Classes of the layers, models inside opened, and shapes of the weights."""
    classes = [type(part).__name__ for part in model._flatten_layers()]
    return classes, [tuple(weight.shape) for weight in model.weights]


@dataclass
class Written:
    """A model, and what Keras writes of it."""

    model: Any
    archive: Path
    json: str


@pytest.fixture(scope="module")
def written(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Written]:
    """Builds and saves a model of `MODELS`, each once."""
    folder = tmp_path_factory.mktemp("models")

    @functools.cache
    def write(build: Callable[[Any], Any]) -> Written:
        model, path = build(keras), folder / f"{build.__name__}.keras"
        model.compile(loss="mse")
        model.save(path)
        return Written(model, path, model.to_json())

    return write


def without_sharing(value: Any) -> Any:
    """The JSON value without shared_object_id, which only .keras files have."""
    if isinstance(value, dict):
        kept = value.keys() - {"shared_object_id"}
        return {key: without_sharing(value[key]) for key in kept}
    return [without_sharing(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_a_model_comes_through_all_three_doors_as_it_was(
    build: Callable[[Any], Any], keras: Any, written: Callable[[Any], Written]
) -> None:
    upload = written(build)
    archive = gate.check_model_archive(upload.archive)
    text = gate.check_model_config(gate.parse_json(upload.json.encode()))
    bare = gate.check_model_config(upload.model.get_config())
    for facts in (archive, text, bare):
        assert facts.config.keys() == {"module", "class_name", "config", "registered_name"}
        assert without_sharing(facts.config) == text.config
        assert (facts.layers, facts.name) == (text.layers, upload.model.name)
    for gone in ("build_config", "compile_config"):
        assert gone in upload.json
        assert gone not in json.dumps(text.config)
    assert archive.loss == text.loss == LossFacts("mean_squared_error", from_logits=False)
    assert bare.loss is None
    rebuilt = keras.saving.deserialize_keras_object(copy.deepcopy(archive.config), safe_mode=True)
    assert skeleton(rebuilt) == skeleton(upload.model)


def test_a_sequential_model_without_input_passes_before_and_after_it_is_built(keras: Any) -> None:
    model = keras.Sequential([keras.layers.Dense(3)])
    assert gate.check_model_config(json.loads(model.to_json())).input_shape is None
    model.build((None, 5))
    assert gate.check_model_config(json.loads(model.to_json())).input_shape == (5,)


def test_facts_count_layers_inside_models_and_leave_inputs_out(
    written: Callable[[Any], Written],
) -> None:
    facts = gate.check_model_archive(written(nested).archive)
    assert facts.layers == {"Dense": 3, "ReLU": 1}  # and neither models nor the + between them
    assert facts.input_shape == (4,)
    assert facts.output_units == 2


def test_facts_read_the_width_below_layers_that_keep_it(
    keras: Any, written: Callable[[Any], Written]
) -> None:
    assert gate.check_model_archive(written(transformer).archive).output_units == 2
    dropout = [keras.Input((4,)), keras.layers.Dense(7), keras.layers.Dropout(0.1)]
    model = keras.Sequential(dropout)
    assert gate.check_model_config(json.loads(model.to_json())).output_units == 7


def test_facts_admit_what_a_config_does_not_say(
    keras: Any, written: Callable[[Any], Written]
) -> None:
    facts = gate.check_model_archive(written(volumes_and_signals).archive)
    assert facts.input_shape is None
    pooled = keras.Sequential([keras.Input((8, 2)), keras.layers.GlobalMaxPooling1D()])
    facts = gate.check_model_config(json.loads(pooled.to_json()))
    assert (facts.input_shape, facts.output_units, facts.loss) == ((8, 2), None, None)


def my_loss(y: Any, p: Any) -> Any:
    return (y - p) ** 2


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda k: "mae", LossFacts("mean_absolute_error", False)),
        (lambda k: "MeanSquaredError", LossFacts("mean_squared_error", False)),
        (lambda k: k.losses.Huber(), LossFacts("huber", False)),
        (lambda k: k.losses.kl_divergence, LossFacts("kl_divergence", False)),
        (
            lambda k: k.losses.SparseCategoricalCrossentropy(from_logits=True),
            LossFacts("sparse_categorical_crossentropy", True),
        ),
        (lambda k: k.losses.BinaryCrossentropy(), LossFacts("binary_crossentropy", False)),
        (lambda k: k.losses.CategoricalCrossentropy(label_smoothing=0.1), None),
        (lambda k: k.losses.MeanSquaredError(reduction="sum"), None),
        (lambda k: k.losses.CategoricalFocalCrossentropy(), None),
        (lambda k: ["mse"], None),
        (lambda k: my_loss, None),
    ],
)
def test_the_loss_is_read_where_it_is_one_plain_loss_of_keras(
    loss: Callable[[Any], Any], expected: LossFacts | None, keras: Any
) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(loss=loss(keras), metrics=[my_loss])
    assert gate.check_model_config(json.loads(model.to_json())).loss == expected


def test_every_class_in_the_tables_is_one_that_keras_has(keras: Any) -> None:
    for module, name in allowed.CLASSES - allowed.OPERATIONS - {allowed.FUNCTIONAL}:
        owner = keras
        for part in module.split(".")[1:]:
            owner = getattr(owner, part)
        assert isinstance(getattr(owner, name), type), (module, name)
    for module, name in allowed.OPERATIONS | {allowed.FUNCTIONAL}:
        assert isinstance(getattr(importlib.import_module(module), name), type)
    for name in allowed.ACTIVATIONS:
        assert callable(getattr(keras.activations, name))
    for name in allowed.LOSS_NAMES:
        assert callable(keras.losses.get(name))
    for key, get in (
        ("initializer", keras.initializers.get),
        ("regularizer", keras.regularizers.get),
    ):
        names = allowed.TEXT_BY_KEY[key] - {"Constant", "constant", "STFT"}  # these want arguments
        assert all(get(name) for name in names)


def test_no_class_that_carries_code_or_files_is_in_the_tables() -> None:
    assert not allowed.CODE_CARRIERS & {name for _, name in allowed.CLASSES}


def test_the_gate_imports_nothing_but_the_standard_library() -> None:
    seen = set()
    files = sorted((ROOT / "api" / "gate").rglob("*.py"))
    assert {"__init__.py", "allowed.py"} <= {file.name for file in files}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                seen |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level
                seen |= {f"{node.module}.{alias.name}" for alias in node.names}
    others = {name for name in seen if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name for name in others if not name.startswith("api.gate.")} == set()
    assert not {name.split(".")[0] for name in seen} & {"pickle", "marshal", "subprocess"}


def test_importing_the_gate_loads_neither_keras_nor_numpy() -> None:
    code = "import sys, api.gate; print({'keras', 'numpy', 'jax'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "set()", done.stderr


# --- whatever comes, Refused is all that is raised ---


def test_three_hundred_damaged_configs_pass_or_are_refused_and_nothing_else(
    written: Callable[[Any], Written],
) -> None:
    whole = written(nested).json.encode()
    draw, outcomes = random.Random(6), set()  # noqa: S311 - repeatable, not secret
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2))):
            damaged[draw.randrange(len(damaged))] = draw.choice(b'019"[]{},:nul\\aZ\xff')
        try:
            gate.check_model_config(gate.parse_json(bytes(damaged)))
        except Refused as refused:
            outcomes.add(refused.code)
        else:
            outcomes.add("passed")
    assert {"passed", "malformed_json", "model_class_not_allowed"} <= outcomes


def test_configs_with_parts_of_the_wrong_kind_pass_or_are_refused_and_nothing_else(
    written: Callable[[Any], Written],
) -> None:
    wholes = [json.loads(written(build).json) for build in (nested, sequences)]
    draw, outcomes = random.Random(7), set()  # noqa: S311 - repeatable, not secret
    for _ in range(300):
        config = draw.choice(wholes)
        for _ in range(draw.choice((1, 2))):
            config = mutated(config, draw)
        try:
            gate.check_model_config(config)
        except Refused as refused:
            outcomes.add(refused.code)
        else:
            outcomes.add("passed")
    assert outcomes == {"passed", "malformed_json", "model_class_not_allowed", "model_too_large"}
