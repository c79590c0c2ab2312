"""Per-layer inputs and output gradients: what each layer of a model saw and was told."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import keras
from keras import ops

from keras_gradopt import backend
from keras_gradopt.patches import patches

Tensor = Any
Variable = Any
# Products of inputs and output gradients; a table's rows; a scale and a shift together.
Kind = Literal["product", "table", "scale_shift"]


@dataclasses.dataclass(frozen=True)
class Block:
    """The weights of one layer, as the matrix that its inputs are multiplied by.

    Attributes:
        kind: What the layer does: a product of inputs and matrix, the choice of a row, or a scale
            and a shift.
        weights: Position of the kernel (or table, or scale) among the variables; None where it does
            not train.
        biases: Position of the bias (or shift); None where there is none that trains.
        groups: Parts of inputs and outputs that meet apart, 1 for all but grouped convolutions.
        inputs: Rows of the matrix in each group, without that of the bias.
        outputs: Columns in each group; for a scale and a shift, entries of both.
    """

    kind: Kind
    weights: int | None
    biases: int | None
    groups: int
    inputs: int
    outputs: int

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions of the variables that there are."""
        return tuple(i for i in (self.weights, self.biases) if i is not None)

    @property
    def rows(self) -> int:
        """Rows of the matrix with that of the bias, which is the last."""
        if self.kind == "scale_shift":
            return 1
        own = self.inputs if self.weights is not None else 0
        return own + (self.biases is not None)

    def matrix(self, xs: Sequence[Tensor]) -> Tensor:
        """What belongs to the block's variables as one tensor.

        Args:
            xs: Per variable of `positions`, a tensor of its shape.

        Returns:
            Shape (groups, rows, outputs).
        """
        if self.kind == "scale_shift":
            return ops.reshape(ops.concatenate([ops.reshape(x, (-1,)) for x in xs]), (1, 1, -1))
        parts, r, m = list(xs), self.groups, self.outputs
        found = []
        if self.weights is not None:
            kernel = ops.reshape(parts.pop(0), (self.inputs, r, m))
            found.append(ops.transpose(kernel, (1, 0, 2)))
        if self.biases is not None:
            found.append(ops.reshape(parts.pop(0), (r, 1, m)))
        return found[0] if len(found) == 1 else ops.concatenate(found, axis=1)

    def variables(self, matrix: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """The inverse of `matrix`, for variables of these shapes."""
        if self.kind == "scale_shift":
            vector = ops.reshape(matrix, (-1,))
            sizes = [math.prod(shape) for shape in shapes]
            starts = [sum(sizes[:i]) for i in range(len(sizes))]
            cut = [vector[a : a + n] for a, n in zip(starts, sizes, strict=True)]
        else:
            cut = []
            if self.weights is not None:
                cut.append(ops.transpose(matrix[:, : self.inputs], (1, 0, 2)))
            if self.biases is not None:
                cut.append(matrix[:, -1:])
        return [ops.reshape(x, shape) for x, shape in zip(cut, shapes, strict=True)]


@dataclasses.dataclass(frozen=True)
class Found:
    """What trains in a model, layer by layer.

    Attributes:
        layers: The layers whose inputs and output gradients can be had.
        blocks: Per layer, its weights.
        others: Names and classes of the layers that are not known, with their variables' positions.
    """

    layers: tuple[keras.layers.Layer, ...]
    blocks: tuple[Block, ...]
    others: tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one layer saw in a pass, and the gradient of the loss at its output before activation.

    Attributes:
        layer: The layer.
        block: Its weights.
        inputs: For each time the layer was called, its input (for a scale and a shift, the
            normalised input), as the layer got it.
        output_gradients: For each call, the gradient of the loss, of the output's shape: the first
            axis counts the examples.
    """

    layer: keras.layers.Layer
    block: Block
    inputs: list[Tensor]
    output_gradients: list[Tensor]

    def examples(self) -> tuple[Tensor, Tensor]:
        """Inputs and output gradients, such that their products sum up to the gradient.

        Returns:
            Inputs, shape (examples, positions, groups, rows), with a 1 in place of the bias; of a
            table, the numbers of its rows, shape (examples, positions). Output gradients, shape
            (examples, positions, groups, outputs). Positions are those of a sequence or an image;
            a layer that is called several times has the positions of all calls. A scale and a shift
            have the input 1 and their own gradient, example by example.
        """
        calls = [
            _KINDS[_class_of(self.layer)].examples(self.layer, self.block, x, d)
            for x, d in zip(self.inputs, self.output_gradients, strict=True)
        ]
        if len(calls) == 1:
            return calls[0]
        if self.block.kind == "scale_shift":
            return calls[0][0], sum(d for _, d in calls)
        a, d = zip(*calls, strict=True)
        return ops.concatenate(list(a), axis=1), ops.concatenate(list(d), axis=1)


@dataclasses.dataclass(frozen=True)
class Layers:
    """One pass through a model.

    Attributes:
        value: The loss, or what stood in its place.
        gradients: Its gradients, one per variable.
        seen: Per known layer, what it saw.
    """

    value: Tensor
    gradients: list[Tensor]
    seen: list[Seen]


# ---------------------------------------------------------------------- finding layers


def find(
    model: keras.Model, variables: Sequence[Variable | None], diagonal: Sequence[str] = ()
) -> Found:
    """The layers that these variables belong to, in nested models too.

    Known are Dense, EinsumDense that is one, Conv1D to Conv3D, Embedding, and the scales and shifts
    of BatchNormalization, LayerNormalization, GroupNormalization and RMSNormalization; subclasses
    too, as long as they keep `call`. Layers inside of recurrent ones and wrappers, which call them
    in loops, are not.

    Args:
        model: A built model.
        variables: The variables that train, in any order; None holds the place of one that does
            not.
        diagonal: Regular expressions that are searched in the variables' paths; layers with such
            variables count as unknown.
    """
    position = {id(v): i for i, v in enumerate(variables) if v is not None}
    apart = {
        i
        for i, v in enumerate(variables)
        if v is not None and any(re.search(pattern, v.path) for pattern in diagonal)
    }
    everything = [model, *model._flatten_layers(include_self=False)]
    looped = {
        id(inner)
        for layer in everything
        if isinstance(layer, keras.layers.RNN | keras.layers.Wrapper)
        for inner in layer._flatten_layers(include_self=False)
    }
    layers: list[keras.layers.Layer] = []
    blocks: list[Block] = []
    taken: set[int] = set()
    for layer in everything:
        known = None if id(layer) in looped else _class_of(layer)
        block = _block(layer, known, position) if known else None
        if block is not None and not (taken | apart).intersection(block.positions):
            layers.append(layer)
            blocks.append(block)
            taken.update(block.positions)
    return Found(tuple(layers), tuple(blocks), _others(everything, position, taken | apart))


def _others(
    everything: Sequence[keras.layers.Layer], position: dict[int, int], taken: set[int]
) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """The variables that no known layer has, by the innermost layer that has them."""
    owners: dict[int, tuple[int, keras.layers.Layer]] = {}
    for layer in everything:
        own = layer.trainable_variables
        for v in own:
            i = position.get(id(v))
            if i is not None and i not in taken and len(own) < owners.get(i, (math.inf,))[0]:
                owners[i] = (len(own), layer)
    grouped: dict[int, tuple[keras.layers.Layer, list[int]]] = {}
    for i, (_, layer) in sorted(owners.items()):
        grouped.setdefault(id(layer), (layer, []))[1].append(i)
    return tuple(
        (layer.name, type(layer).__name__, tuple(places)) for layer, places in grouped.values()
    )


def _class_of(layer: keras.layers.Layer) -> type | None:
    """The known class whose `call` a layer has; None for layers with weights of their own kind."""
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return None
    for cls in _KINDS:
        if isinstance(layer, cls) and type(layer).call is cls.call:
            return cls
    return None


def _block(layer: keras.layers.Layer, cls: type, position: dict[int, int]) -> Block | None:
    kind = _KINDS[cls]
    weights, biases = (getattr(layer, name, None) for name in kind.names)
    sizes = kind.sizes(layer)
    if sizes is None:
        return None
    i, j = (None if v is None else position.get(id(v)) for v in (weights, biases))
    if i is None and j is None:
        return None
    groups, inputs, outputs = sizes
    if kind.kind == "scale_shift":
        outputs *= (i is not None) + (j is not None)
    return Block(kind.kind, i, j, groups, inputs, outputs)


# ---------------------------------------------------------------------- one pass


def look(found: Found, ws: Sequence[Tensor], loss: Callable[[Sequence[Tensor]], Tensor]) -> Layers:
    """The value and the gradients of a loss, and what each layer saw: one gradient's work.

    Args:
        found: The model's layers.
        ws: Where to look.
        loss: The loss as a function of `ws`, which calls the layers.

    Raises:
        RuntimeError: A layer is called in a loop, where nothing can be taken out.
    """

    def run(ws: Sequence[Tensor], tap: Callable) -> tuple[Tensor, list[list[Tensor]]]:
        with _tapped(found.layers, tap) as inputs:
            return loss(ws), inputs

    value, gs, at_taps, inputs = backend.value_and_grads_at_taps(run, list(ws))
    seen = [
        Seen(layer, block, xs, [at_taps[number, use] for use in range(len(xs))])
        for number, (layer, block, xs) in enumerate(
            zip(found.layers, found.blocks, inputs, strict=True)
        )
    ]
    return Layers(value, gs, seen)


@contextlib.contextmanager
def _tapped(layers: Sequence[keras.layers.Layer], tap: Callable) -> Iterator[list[list[Tensor]]]:
    """While it lasts, layers note their inputs and hand their outputs to `tap`."""
    inputs: list[list[Tensor]] = [[] for _ in layers]
    around = backend.nesting()
    with contextlib.ExitStack() as stack:
        for number, layer in enumerate(layers):
            call = _noting(layer, number, inputs[number], tap, around)
            stack.enter_context(_replaced(layer, "call", call))
        yield inputs


def _noting(
    layer: keras.layers.Layer, number: int, inputs: list[Tensor], tap: Callable, around: Any
) -> Callable:
    own = layer.call
    run = _KINDS[_class_of(layer)].run

    @functools.wraps(own)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        if backend.nesting() != around:
            raise RuntimeError(
                f"The layer {layer.name!r} ({type(layer).__name__}) is called within a loop, a map "
                "or a rematerialised function, which keeps its inputs to itself. Name its weights "
                f"in the argument `diagonal`, e.g. diagonal=({layer.name!r},)."
            )
        key = (number, len(inputs))
        x = args[0] if args else next(iter(kwargs.values()))
        inputs.append(ops.convert_to_tensor(x))

        def noted(x: Tensor) -> None:
            inputs[-1] = x

        return run(
            layer, functools.partial(own, *args, **kwargs), functools.partial(tap, key), noted
        )

    return call


@contextlib.contextmanager
def _replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute with another value, past all tracking."""
    attributes = vars(holder)
    was_there, before = name in attributes, attributes.get(name)
    attributes[name] = value
    try:
        yield
    finally:
        if was_there:
            attributes[name] = before
        else:
            del attributes[name]


# ---------------------------------------------------------------------- what differs by layer


def _before_activation(
    layer: keras.layers.Layer, call: Callable, tap: Callable, noted: Callable
) -> Tensor:
    """Runs a layer that ends in its own activation."""
    del noted
    activation = layer.activation

    def tapped(x: Tensor) -> Tensor:
        x = tap(x)
        return x if activation is None else activation(x)

    with _replaced(layer, "activation", tapped):
        return call()


def _at_output(layer: keras.layers.Layer, call: Callable, tap: Callable, noted: Callable) -> Tensor:
    del layer, noted
    return tap(call())


def _around_scale(
    layer: keras.layers.Layer, call: Callable, tap: Callable, noted: Callable
) -> Tensor:
    """Runs a normalisation with scale 1 and shift 0, then scales and shifts what came out."""
    names = [n for n in _KINDS[_class_of(layer)].names if _is_variable(getattr(layer, n, None))]
    own = {name: getattr(layer, name) for name in names}
    with contextlib.ExitStack() as stack:
        for name, v in own.items():
            value = ops.convert_to_tensor(v)
            plain = ops.zeros_like(value) if name == "beta" else ops.ones_like(value)
            stack.enter_context(_replaced(layer, name, plain))
        x = call()
    noted(x)
    shape = [1] * len(x.shape)
    for axis in _axes(layer, len(x.shape)):
        shape[axis] = x.shape[axis]
    for name, v in own.items():
        value = ops.reshape(ops.cast(ops.convert_to_tensor(v), x.dtype), shape)
        x = x + value if name == "beta" else x * value
    return tap(x)


def _is_variable(x: Any) -> bool:
    return isinstance(x, keras.Variable)


def _axes(layer: keras.layers.Layer, rank: int) -> list[int]:
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    return [axis % rank for axis in axes]


def _with_one(a: Tensor, block: Block) -> Tensor:
    """Inputs with a 1 for the bias, or only it."""
    if block.weights is None:
        return ops.ones_like(a[..., :1])
    if block.biases is None:
        return a
    return ops.concatenate([a, ops.ones_like(a[..., :1])], axis=-1)


def at_least_float32(x: Tensor) -> Tensor:
    """A tensor in float32, or in float64 if it is."""
    double = keras.backend.standardize_dtype(x.dtype) == "float64"
    return x if double else ops.cast(x, "float32")


def _dense_examples(
    layer: keras.layers.Layer, block: Block, x: Tensor, d: Tensor
) -> tuple[Tensor, Tensor]:
    del layer
    batch = ops.shape(x)[0]
    a = ops.reshape(at_least_float32(x), (batch, -1, 1, block.inputs))
    return _with_one(a, block), ops.reshape(at_least_float32(d), (batch, -1, 1, block.outputs))


def _conv_examples(
    layer: keras.layers.Layer, block: Block, x: Tensor, d: Tensor
) -> tuple[Tensor, Tensor]:
    x, d = at_least_float32(x), at_least_float32(d)
    if layer.data_format == "channels_first":
        x, d = ops.moveaxis(x, 1, -1), ops.moveaxis(d, 1, -1)
    batch, r = ops.shape(x)[0], block.groups
    a = patches(x, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)
    size, channels = a.shape[2], a.shape[3]
    a = ops.reshape(a, (batch, -1, size, r, channels // r))
    a = ops.reshape(ops.transpose(a, (0, 1, 3, 2, 4)), (batch, -1, r, block.inputs))
    return _with_one(a, block), ops.reshape(d, (batch, -1, r, block.outputs))


def _embedding_examples(
    layer: keras.layers.Layer, block: Block, x: Tensor, d: Tensor
) -> tuple[Tensor, Tensor]:
    del layer
    batch = ops.shape(x)[0]
    rows = ops.reshape(ops.cast(x, "int32"), (batch, -1))
    return rows, ops.reshape(at_least_float32(d), (batch, -1, 1, block.outputs))


def _scale_shift_examples(
    layer: keras.layers.Layer, block: Block, x: Tensor, d: Tensor
) -> tuple[Tensor, Tensor]:
    x, d = at_least_float32(x), at_least_float32(d)
    kept = _axes(layer, len(x.shape))
    summed = [i for i in range(1, len(x.shape)) if i not in kept]
    products = [d * x] * (block.weights is not None) + [d] * (block.biases is not None)
    batch = ops.shape(x)[0]
    own = [ops.reshape(ops.sum(p, axis=summed) if summed else p, (batch, -1)) for p in products]
    d = ops.reshape(ops.concatenate(own, axis=1), (batch, 1, 1, block.outputs))
    return ops.ones_like(d[..., :1]), d


def _dense_sizes(layer: keras.layers.Layer) -> tuple[int, int, int] | None:
    return (1, *layer.kernel.shape)


def _einsum_sizes(layer: keras.layers.Layer) -> tuple[int, int, int] | None:
    """Of an equation that contracts the input's last axes with the kernel's first ones."""
    operands, _, result = layer.equation.replace("...", "").replace(" ", "").partition("->")
    given, _, kernel = operands.partition(",")
    contracted = [c for c in kernel if c not in result]
    k = len(contracted)
    new = kernel[k:]
    plain = (
        list(kernel[:k]) == contracted
        and given.endswith(kernel[:k])
        and result == given[: len(given) - k] + new
        and not set(new).intersection(given)
        # The first axis holds the examples.
        and len(given) + layer.equation.count("...") > k
        and not layer.equation.partition(",")[0].endswith("...")
    )
    shape = layer.kernel.shape
    outputs = math.prod(shape[k:])
    if not plain or (layer.bias is not None and math.prod(layer.bias.shape) != outputs):
        return None
    return 1, math.prod(shape[:k]), outputs


def _conv_sizes(layer: keras.layers.Layer) -> tuple[int, int, int] | None:
    *space, channels, filters = layer.kernel.shape
    return layer.groups, math.prod(space) * channels, filters // layer.groups


def _table_sizes(layer: keras.layers.Layer) -> tuple[int, int, int] | None:
    return (1, *layer.embeddings.shape)


def _scale_sizes(layer: keras.layers.Layer) -> tuple[int, int, int] | None:
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    if getattr(layer, "renorm", False) or list(axes) != sorted(axes):
        return None
    names = _KINDS[_class_of(layer)].names
    (v, *_) = [getattr(layer, n) for n in names if _is_variable(getattr(layer, n, None))] or [None]
    return None if v is None else (1, 0, math.prod(v.shape))


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How layers of one class are run and read."""

    kind: Kind
    names: tuple[str, str]
    sizes: Callable[[keras.layers.Layer], tuple[int, int, int] | None]
    run: Callable[..., Tensor]
    examples: Callable[..., tuple[Tensor, Tensor]]


_DENSE = _Kind("product", ("kernel", "bias"), _dense_sizes, _before_activation, _dense_examples)
_CONV = _Kind("product", ("kernel", "bias"), _conv_sizes, _before_activation, _conv_examples)
_SCALE_SHIFT = _Kind(
    "scale_shift", ("gamma", "beta"), _scale_sizes, _around_scale, _scale_shift_examples
)
_KINDS: dict[Any, _Kind] = {
    keras.layers.Dense: _DENSE,
    keras.layers.EinsumDense: dataclasses.replace(_DENSE, sizes=_einsum_sizes),
    keras.layers.Conv1D: _CONV,
    keras.layers.Conv2D: _CONV,
    keras.layers.Conv3D: _CONV,
    keras.layers.Embedding: _Kind(
        "table", ("embeddings", ""), _table_sizes, _at_output, _embedding_examples
    ),
    keras.layers.BatchNormalization: _SCALE_SHIFT,
    keras.layers.LayerNormalization: _SCALE_SHIFT,
    keras.layers.GroupNormalization: _SCALE_SHIFT,
    keras.layers.RMSNormalization: dataclasses.replace(_SCALE_SHIFT, names=("scale", "")),
}
