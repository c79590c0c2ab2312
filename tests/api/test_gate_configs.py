"""Configs that the gate refuses, as JSON or parsed; most are forged here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from api import gate
from tests.api.uploads import (
    INSIDE,
    LAMBDA,
    LAYER,
    MARSHAL,
    array,
    function,
    functional,
    refusal,
    sequential,
    symbolic,
    thing,
)

pytestmark = pytest.mark.backend_free


# --- configs that are refused ---


def test_the_helpers_of_these_tests_build_a_config_that_passes() -> None:
    facts = gate.check_model_config(sequential(thing("Dense", name="dense", units=3)))
    assert (facts.layers, facts.output_units) == ({"Dense": 1}, 3)


@pytest.mark.parametrize(
    ("layer", "pointer"),
    [
        # A01
        (LAMBDA, f"{LAYER}/class_name"),
        (thing("Dense", activation=MARSHAL), f"{INSIDE}/activation/class_name"),
        # A02
        (thing("Dense", activation=function("os", "system")), f"{INSIDE}/activation/config"),
        (thing("Dense", activation=function("builtins", "eval")), f"{INSIDE}/activation/config"),
        (thing("Popen", "subprocess", args="id"), f"{LAYER}/class_name"),
        (thing("FunctionType", "types"), f"{LAYER}/class_name"),
        # A03
        (
            thing("Activation", activation=function("keras.utils", "get_file")),
            f"{INSIDE}/activation/config",
        ),
        (
            thing(
                "Activation",
                activation=function("keras.config", "enable_unsafe_deserialization"),
            ),
            f"{INSIDE}/activation/config",
        ),
        (
            thing("Activation", activation=function("keras.models", "load_model")),
            f"{INSIDE}/activation/config",
        ),
        # A04
        (
            thing("Lambda", function=function("keras.config", "set_floatx")),
            f"{LAYER}/class_name",
        ),
        (
            thing("Activation", activation=function("keras.datasets.mnist", "load_data")),
            f"{INSIDE}/activation/config",
        ),
        (thing("ResNet50", "keras.applications.resnet50", weights="/x"), f"{LAYER}/class_name"),
        # A05
        (thing("StringLookup", vocabulary="/etc/passwd"), f"{LAYER}/class_name"),
        (thing("IntegerLookup", vocabulary="http://127.0.0.1:1/"), f"{LAYER}/class_name"),
        (thing("TextVectorization", vocabulary="gs://a/b"), f"{LAYER}/class_name"),
        (thing("Dense", vocabulary="/etc/passwd"), f"{INSIDE}/vocabulary"),
        # A06
        (thing("TFSMLayer", filepath="/tmp/x"), f"{LAYER}/class_name"),  # noqa: S108
        (thing("TorchModuleWrapper", module="gASV"), f"{LAYER}/class_name"),
        (thing("FlaxLayer", module=None), f"{LAYER}/class_name"),
        (thing("JaxLayer", call_fn=MARSHAL), f"{LAYER}/class_name"),
        # A07: the layer of A01 further inside
        (sequential(LAMBDA), f"{INSIDE}/layers/0/class_name"),
        (thing("RNN", cell=LAMBDA), f"{INSIDE}/cell/class_name"),
        (thing("RNN", cell=thing("StackedRNNCells", cells=[LAMBDA])), None),
        (thing("Bidirectional", layer=LAMBDA), f"{INSIDE}/layer/class_name"),
        (thing("TimeDistributed", layer=LAMBDA), f"{INSIDE}/layer/class_name"),
        ({**thing("Dense", units=1), "build_config": {"x": LAMBDA}}, f"{LAYER}/build_config/x"),
        ({**sequential(), "compile_config": {"loss": MARSHAL}}, f"{LAYER}/compile_config/loss"),
        ({**thing("Dense"), "inbound_nodes": [{"args": [LAMBDA]}]}, f"{LAYER}/inbound_nodes/0"),
        # A11
        (thing("Dense", name="../../../../tmp/x"), f"{INSIDE}/name"),
        (thing("Dense", name="..\\x"), f"{INSIDE}/name"),
        (thing("Dense", name=".."), f"{INSIDE}/name"),
        # other modules, names and values
        (thing("Dense", "my.package", units=1), f"{LAYER}/class_name"),
        (thing("Dense", None, units=1), f"{LAYER}/class_name"),
        (thing("Dense", ["keras.layers"]), f"{LAYER}/class_name"),
        (thing(["Dense"]), f"{LAYER}/class_name"),
        (thing("Dense", "keras.src.layers.core.dense"), f"{LAYER}/class_name"),
        (thing("Repeat", "keras.src.ops.numpy"), f"{LAYER}/class_name"),
        ({**thing("Dense"), "registered_name": "Custom>Dense"}, f"{LAYER}/registered_name"),
        ({**thing("Dense"), "registered_name": "my_package>Dense"}, f"{LAYER}/registered_name"),
        (
            thing("Dense", activation={**function("builtins", "relu"), "registered_name": "x>y"}),
            f"{INSIDE}/activation/registered_name",
        ),
        (thing("Dense", activation=function("builtins", "mean_squared_error")), None),
        (thing("LSTM", recurrent_activation="my_activation"), f"{INSIDE}/recurrent_activation"),
        (thing("Dense", kernel_initializer="my_initializer"), f"{INSIDE}/kernel_initializer"),
        (thing("Dense", kernel_regularizer="my_regularizer"), f"{INSIDE}/kernel_regularizer"),
        (thing("Dense", bias_constraint="my_constraint"), f"{INSIDE}/bias_constraint"),
        (thing("Dense", dtype="string"), f"{INSIDE}/dtype"),
        (thing("Dense", dtype="U60000000"), f"{INSIDE}/dtype"),
        (thing("Dense", dtype=thing("DTypePolicy", "keras", name="int8_from_float32")), None),
        (thing("Dense", dtype=thing("DTypePolicy", "keras", name="float32", more=1)), None),
        (thing("Dense", dtype=thing("QuantizedDTypePolicy", "keras", mode="int8")), None),
        (thing("Dense", x={"class_name": "__typespec__", "config": []}), f"{INSIDE}/x/class_name"),
        (thing("Dense", x=array([0.5] * 2000)), f"{INSIDE}/x/config/value"),
        (thing("Dense", x=array([0.5] * 2000, kind="__tensor__")), f"{INSIDE}/x/config/value"),
        (thing("Dense", x=array([0.5], kind="__ndarray__")), f"{INSIDE}/x/class_name"),
        (thing("Dense", x=array([0.5], dtype="object")), f"{INSIDE}/x/config/dtype"),
        (thing("Dense", x=array([0.5], dtype=5)), f"{INSIDE}/x/config/dtype"),
        (thing("Dense", x=array(["text"])), f"{INSIDE}/x/config/value"),
    ],
)
def test_a_class_function_or_name_outside_the_tables_is_refused_where_it_stands(
    layer: dict[str, Any], pointer: str | None
) -> None:
    refused = refusal(gate.check_model_config, sequential(layer))
    assert refused.code == "model_class_not_allowed"
    assert "gradopt advise" in refused.detail
    assert (refused.pointer or "").startswith(pointer or LAYER)


def test_the_same_is_refused_in_a_functional_model_and_in_a_bare_config() -> None:
    entry = {**LAMBDA, "name": "a", "inbound_nodes": []}
    refused = refusal(gate.check_model_config, functional(entry))
    assert (refused.code, refused.pointer) == ("model_class_not_allowed", f"{LAYER}/class_name")
    for bare in (functional(entry)["config"], sequential(LAMBDA)["config"]):
        refused = refusal(gate.check_model_config, bare)
        assert (refused.code, refused.pointer) == (
            "model_class_not_allowed",
            "/layers/0/class_name",
        )


def test_code_in_the_dropped_parts_of_the_model_is_refused_too() -> None:
    for part in ("compile_config", "build_config", "anything"):
        refused = refusal(gate.check_model_config, sequential(**{part: {"loss": [LAMBDA]}}))
        assert refused.code == "model_class_not_allowed"
        assert refused.pointer == f"/{part}/loss/0/class_name"


def test_a_custom_loss_is_dropped_with_all_that_was_compiled() -> None:
    custom = {"loss": thing("MyLoss", "my.losses"), "metrics": [function("my.metrics", "score")]}
    facts = gate.check_model_config(sequential(thing("Dense", units=1), compile_config=custom))
    assert facts.loss is None
    assert "my." not in json.dumps(facts.config)


def test_a_subclassed_model_is_refused_by_its_name() -> None:
    refused = refusal(gate.check_model_config, thing("MyModel", "__main__", layers=[]))
    assert refused.code == "model_class_not_allowed"
    assert refused.pointer == "/class_name"
    assert "MyModel" in refused.detail


def test_a_shared_object_may_be_repeated_but_neither_hold_itself_nor_change_its_class() -> None:
    shared = {**thing("Dense", name="d", units=1), "shared_object_id": 140_000_000_000_000}
    facts = gate.check_model_config(sequential(sequential(shared), sequential(shared)))
    assert json.dumps(facts.config).count("140000000000000") == 2
    inner = {**thing("TimeDistributed"), "shared_object_id": 140_000_000_000_000}
    cycle = {**thing("TimeDistributed", layer=inner), "shared_object_id": 140_000_000_000_000}
    other = {**thing("Flatten"), "shared_object_id": 140_000_000_000_000}
    for broken in (sequential(cycle), sequential(shared, other)):
        refused = refusal(gate.check_model_config, broken)
        assert refused.code == "model_class_not_allowed"
        assert str(refused.pointer).endswith("/shared_object_id")


def test_an_operation_between_layers_is_refused_with_advice_to_use_a_layer() -> None:
    refused = refusal(gate.check_model_config, sequential(thing("GetItem", "keras.src.ops.numpy")))
    assert "'GetItem'" in refused.detail
    assert "keras.layers.Reshape" in refused.detail


@pytest.mark.parametrize(
    "config",
    [
        None,
        "text",
        [],
        {},
        thing("Dense", units=1),  # a layer is no model
        {**sequential(), "config": None},
        thing("Sequential", "keras", name="m"),
        thing("Sequential", "keras", layers={}),
        thing("Sequential", "keras", layers=[None]),
        thing("Sequential", "keras", layers=[{"module": []}]),
        thing("Sequential", "keras", layers=[thing("Zeros", "keras.initializers")]),
        thing("Sequential", "keras", layers=[], class_name="Dense", config={}),
        thing("Model", "keras", layers=[]),
        sequential({**thing("Dense"), "config": "units=1"}),
        sequential(thing("Dense", units={1: 2})),
        sequential(thing("Dense", units=1j)),
        sequential(thing("Dense", units=float("nan"))),
        sequential(thing("Dense", units=float("inf"))),
        sequential(thing("Dense", x="\ud800")),
        sequential(thing("Dense", x=array([1])["config"] | {"class_name": "__numpy__"})),
        sequential({**thing("Dense"), "inbound_nodes": [symbolic(shape=[1], dtype="int8")]}),
        sequential({**thing("Dense"), "inbound_nodes": [symbolic("a", 0)]}),
        sequential({**thing("Dense"), "inbound_nodes": [symbolic("a", 0, "b")]}),
    ],
)
def test_what_is_no_model_config_is_refused_as_malformed(config: Any) -> None:
    assert refusal(gate.check_model_config, config).code == "malformed_json"


@pytest.mark.parametrize(
    "config",
    [
        # A13
        sequential(thing("Dense", units=2 * 10**9)),
        sequential(thing("InputLayer", batch_shape=[None, 10**9])),
        sequential(thing("InputLayer", batch_shape=[None, 10**5, 10**5])),
        sequential(thing("InputLayer", batch_shape=[None, *[2**20] * 60])),
        sequential(thing("Embedding", input_dim=10**12, output_dim=1)),
        sequential(thing("Embedding", input_dim=1e12, output_dim=1)),
        sequential(thing("Dense", units=10**400)),
        sequential(thing("Conv3D", kernel_size=[10**4] * 3)),
        sequential(*[thing("Flatten")] * 3000),
        sequential(*[sequential(*[thing("Flatten")] * 50)] * 20),
        sequential(thing("Dense", x=list(range(250_000)))),
        sequential(compile_config={"x": [0] * 250_000}),
        sequential(thing("RandomUniform", "keras.initializers", seed=2**64)),
    ],
)
def test_a_model_too_large_to_build_is_refused_by_arithmetic(config: Any) -> None:
    began = time.perf_counter()
    refused = refusal(gate.check_model_config, config)
    assert refused.code == "model_too_large"
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("wrap", [sequential, lambda c: thing("TimeDistributed", layer=c)])
def test_models_nested_fifty_deep_are_refused_without_recursing(
    wrap: Callable[[Any], dict[str, Any]],
) -> None:
    config = thing("Dense", units=1)
    for _ in range(50):
        config = wrap(config)
    assert refusal(gate.check_model_config, sequential(config)).code == "model_too_large"


def test_a_config_that_holds_itself_is_refused() -> None:
    config = sequential(thing("Dense", x=[]))
    config["config"]["layers"][0]["config"]["x"].append(config)
    assert refusal(gate.check_model_config, config).code == "model_too_large"


def test_a_graph_that_runs_in_circles_still_has_facts() -> None:
    node = {"args": [symbolic("a", 0, 0)], "kwargs": {}}
    circle = {**thing("Dropout", name="a"), "name": "a", "inbound_nodes": [node]}
    facts = gate.check_model_config(functional(circle))
    assert (facts.output_units, facts.input_shape, facts.layers) == (None, None, {"Dropout": 1})


def test_nothing_but_known_keys_is_kept_of_an_object() -> None:
    odd = {**thing("Dense", units=1), "spec_name": "x", "__reduce__": [1], "inbound_nodes": []}
    kept = gate.check_model_config(sequential(odd, extra=1)).config
    layer = kept["config"]["layers"][0]
    assert layer.keys() == {"module", "class_name", "config", "registered_name", "inbound_nodes"}
    assert "extra" not in kept


def test_the_kept_config_shares_nothing_with_the_upload() -> None:
    config = sequential(thing("Dense", units=1, x=[1]))
    kept = gate.check_model_config(config).config
    config["config"]["layers"][0]["config"]["x"].append(2)
    assert kept["config"]["layers"][0]["config"]["x"] == [1]


@pytest.mark.parametrize(
    "config",
    [
        sequential(thing("A" * 5000)),
        sequential(thing("A" * 5000, "A" * 5000)),
        sequential(thing("Dense", activation="A" * 5000)),
        sequential(thing("Dense", **{"A" * 5000: {"A" * 5000: {"A" * 5000: LAMBDA}}})),
        sequential(thing("Dense", activation=function("A" * 5000, "A" * 5000))),
        sequential(thing("Dense", units=10**7 + 1, **{"A" * 5000: 10**8})),
    ],
)
def test_a_refusal_echoes_little_of_the_upload(config: Any) -> None:
    refused = refusal(gate.check_model_config, config)
    assert refused.detail.count("A") <= 200
    assert len(refused.detail) < 800
    assert len(refused.pointer or "") <= 200


def test_a_refusal_can_be_printed_whatever_the_names_were() -> None:
    config = sequential(thing("\ud800\x1b[31m", **{"\udfff/~": 1}))
    refused = refusal(gate.check_model_config, config)
    assert (refused.detail + str(refused.pointer)).encode("utf-8").isascii() or "…" in str(refused)
    assert "\x1b" not in str(refused)
    config = sequential(thing("Dense", **{"a/b~c\x1b": LAMBDA}))
    pointer = refusal(gate.check_model_config, config).pointer
    assert pointer == f"{INSIDE}/a~1b~0c\\x1b/class_name"


def test_a_long_model_name_is_cut_for_the_facts_only() -> None:
    facts = gate.check_model_config(sequential(name="m" * 500))
    assert len(facts.name) == 120
    assert len(facts.config["config"]["name"]) == 500


# --- JSON ---


@pytest.mark.parametrize(
    ("data", "code"),
    [
        # A15
        (b"[" * 900 + b"]" * 900, "model_too_large"),
        (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, "model_too_large"),
        (b"[" * 1_000_000, "model_too_large"),
        (b"[" + b"0," * 300_000 + b"0]", "model_too_large"),
        (b"[" + b"1" * 10_000_000 + b"]", "model_too_large"),
        (b"[" + b"1" * 100_000 + b"]", "malformed_json"),
        (b"[" + b"1" * 1000 + b"]", "malformed_json"),
        (b"[1e400]", "malformed_json"),
        (b"[-1e400]", "malformed_json"),
        (b"[NaN]", "malformed_json"),
        (b"[-Infinity]", "malformed_json"),
        (b'{"a":1,"a":2}', "malformed_json"),
        (b'{"a":1,"\\u0061":2}', "malformed_json"),
        (b'["\\ud800"]', "malformed_json"),
        (b'{"\\udfff":1}', "malformed_json"),
        (b'["\xed\xa0\x80"]', "malformed_json"),
        (b"\xef\xbb\xbf{}", "malformed_json"),
        ("{}".encode("utf-16"), "malformed_json"),
        ("{}".encode("utf-16-le"), "malformed_json"),
        ("{}".encode("utf-32"), "malformed_json"),
        ('["é"]'.encode("latin-1"), "malformed_json"),
        (b"", "malformed_json"),
        (b"{", "malformed_json"),
        (b"]" * 100_000, "malformed_json"),
        (b"{'a': 1}", "malformed_json"),
        (b"[1,]", "malformed_json"),
        (b'["\x00"]', "malformed_json"),
        (b"{} {}", "malformed_json"),
        (b'"' + b"\\" * 100_001, "malformed_json"),
        (b'"' + b'\\"' * 500_000, "malformed_json"),  # quadratic in a scanner that backtracks
    ],
    ids=lambda value: ascii(value[:16]) if isinstance(value, bytes) else value,
)
def test_json_that_could_exhaust_or_mislead_a_parser_is_refused_at_once(
    data: bytes, code: str
) -> None:
    began = time.perf_counter()
    assert refusal(gate.parse_json, data).code == code
    assert time.perf_counter() - began < 2


def test_json_within_the_limits_is_parsed_as_it_stands() -> None:
    text = '{"a": [1, -0, 2.5e3, true, null, "\\u00e9[[{{\\"]]"], "b": {}, "c": "\\ud83d\\ude00"}'
    assert gate.parse_json(text.encode()) == json.loads(text)
    deep = b"[" * 64 + b"]" * 64
    assert gate.parse_json(deep) == json.loads(deep)
    brackets = json.dumps("[" * 1000).encode()
    assert gate.parse_json(brackets) == "[" * 1000
