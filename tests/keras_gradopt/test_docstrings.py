"""Docstrings: every section, every argument, a source with its year, an example that is true."""

from __future__ import annotations

import ast
import doctest
import inspect
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import catalogue, registry
from keras_gradopt.arguments import Arguments, Hyperparameters
from tests.keras_gradopt.problems import network, regression_data

OPTIMIZERS = registry.optimizer_classes()
OTHERS = {
    name: cls
    for family in registry.OTHER_FAMILIES
    for name, cls in registry.members(f"keras_gradopt.{family}").items()
}
CALLBACKS = {
    name: cls
    for name, cls in registry.members("keras_gradopt.callbacks").items()
    if issubclass(cls, kg.callbacks.Callback)
}
SAMPLING = {
    name: cls
    for name, cls in registry.members("keras_gradopt.sampling").items()
    if issubclass(cls, Arguments)
}
PUBLIC = {**OPTIMIZERS, **OTHERS, **CALLBACKS, **SAMPLING}


class Rounded(doctest.OutputChecker):
    """Compares numbers to four digits, everything else to the letter."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if super().check_output(want, got, optionflags):
            return True
        try:
            return bool(np.allclose(_numbers(want), _numbers(got), rtol=1e-3, atol=1e-4))
        except (ValueError, SyntaxError, TypeError):
            return False


def _numbers(text: str) -> list[float]:
    def flat(value: Any) -> list[float]:
        return [x for part in value for x in flat(part)] if isinstance(value, list) else [value]

    return flat(ast.literal_eval(text.strip()))


class Shown:
    """A tensor that prints as nested lists."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        parts = self.value if isinstance(self.value, list | tuple) else [self.value]
        arrays = [np.array(ops.convert_to_numpy(getattr(p, "value", p))).tolist() for p in parts]
        return str(arrays if isinstance(self.value, list | tuple) else arrays[0])


def namespace() -> dict[str, Any]:
    x, y = regression_data(64)
    return {
        "keras": keras,
        "ops": ops,
        "keras_gradopt": kg,
        "show": Shown,
        "h": lambda **values: Hyperparameters(step=1.0, **values),
        "model": network(),
        "x": x,
        "y": y[:, :1],
        **PUBLIC,
    }


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_the_example_is_true(name: str) -> None:
    cls = PUBLIC[name]
    text = inspect.cleandoc(cls.__doc__ or "")
    test = doctest.DocTestParser().get_doctest(text, namespace(), name, None, None)
    assert test.examples, f"{name} has no example"
    said: list[str] = []
    runner = doctest.DocTestRunner(checker=Rounded(), verbose=False)
    result = runner.run(test, out=said.append)
    assert result.failed == 0, "".join(said)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_section_and_argument_is_there(name: str) -> None:
    cls = PUBLIC[name]
    parts = catalogue.sections(inspect.cleandoc(cls.__doc__ or ""))
    assert parts[""].partition("\n\n")[0].endswith("."), "the first line is one sentence"
    assert "\n" not in parts[""].partition("\n\n")[0]
    assert "$$" in parts[""]
    assert "Use it" in parts[""]
    documented = catalogue.argument_texts(parts["Args"])
    expected = list(cls.argument_defaults())
    assert [n for n in documented if not n.startswith("*")] == expected
    assert all(documented.values())
    for argument, allowed in cls.all_ranges().items():
        if argument in documented and (allowed.low, allowed.high) == (0.0, 1.0):
            assert str(allowed) in documented[argument], f"{argument} does not say {allowed}"
    assert any(char.isdigit() for char in parts["References"])


def test_the_catalogue_has_an_entry_for_every_optimizer() -> None:
    entries = kg.methods()
    assert {e.class_name for e in entries} == set(OPTIMIZERS)
    assert [e.name for e in entries] == sorted(e.name for e in entries)
    for e in entries:
        assert 1900 < e.year < 2100
        assert e.equations
        assert e.paper
        assert e.use.startswith("Use it")
        assert e.hyperparameters
        # A loss is a third of a gradient.
        assert e.gradient_evaluations_per_step >= (1 / 3 if e.needs == "population" else 1)


@pytest.mark.parametrize(
    ("name", "multiple"),
    # Vectors kept beside the parameters, as the papers count them. For Shampoo, of a matrix: two
    # statistics and two roots of its size, and the grafted accumulator.
    [("SGD", 0), ("Adagrad", 1), ("RMSprop", 1), ("Adam", 2), ("Prodigy", 4), ("Shampoo", 5)],
)
def test_state_is_counted_in_multiples_of_the_parameters(name: str, multiple: float) -> None:
    (entry,) = [e for e in kg.methods() if e.class_name == name]
    assert entry.state_multiple == multiple


def test_a_misspelt_name_gets_a_guess() -> None:
    with pytest.raises(ValueError, match=r"Unknown optimizer 'admw'. Did you mean .*AdamW"):
        kg.get("admw")


def test_a_method_that_needs_arguments_says_so() -> None:
    with pytest.raises(ValueError, match=r"cannot be made from its name alone.*Lookahead"):
        kg.get("lookahead")
