"""Compiles the arithmetic of a step by itself, where TensorFlow does not compile the whole step."""

from __future__ import annotations

import math
import platform
import weakref
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.backend.engine import Packing
from keras_gradopt.transforms import CommonFactor

Tensor = Any
State = tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]

# By rule, so that nothing of it is saved, copied or pickled with the optimizer.
_functions: weakref.WeakKeyDictionary[Any, dict[Hashable, Callable]] = weakref.WeakKeyDictionary()
# A hyper-parameter that is another Python number at every eager step would be compiled as often.
_MOST_VARIANTS = 8
# Above this many variables packing costs more than the few operations of a rule with fewer slots.
_MANY = 256
_SLOTS_TO_PACK = 2
# Below this many entries in all XLA takes longer to compile a step than steps take without it.
LEAST_ENTRIES = 262_144
# Stands for a tensor among the numbers that a compiled function is made for.
_TENSOR = "tensor"


def arithmetic(
    rule: Any,
    ws: list[Tensor],
    gs: list[Tensor],
    slots: list[tuple[Tensor, ...]],
    shared: dict[str, Tensor],
    h: Hyperparameters,
    members: Sequence[Hashable],
    *,
    donate: bool = False,
    **packing: Any,
) -> State:
    """`Rule.arithmetic` on packed variables, compiled by XLA where that is asked for and pays.

    Small variables are packed before the compiled part and cut after it: XLA would spend seconds
    on hundreds of cuts. Of variables that are not packed the compiled part of a graph reads and
    writes the buffers themselves, if it may: new ones for every step cost as much as the rule.

    Args:
        rule: A `Rule`.
        ws: Weights.
        gs: Gradients.
        slots: Per variable, its slots.
        shared: Shared slots.
        h: Hyper-parameters.
        members: Per variable, its group.
        donate: Whether the variables that weights and slots were read from may be overwritten.
        **packing: What `engine.Packing` takes: how small variables are packed.
    """
    if rule.elementwise and len(ws) > _MANY and max(map(len, slots)) < _SLOTS_TO_PACK:
        return rule.arithmetic(ws, gs, slots, shared, h, members)
    given = (list(ws), list(gs), [tuple(own) for own in slots], dict(shared))
    if _in_xla():
        if len(ws) <= _MANY:
            # Compiling the packing takes longer than compiling a rule for each variable.
            packing = {**packing, "pack_below": 0}
        return _packed(rule, *given, h, members, rule.arithmetic, packing)
    if not _is_compiled(rule, ws):
        return _packed(rule, *given, h, members, rule.arithmetic, packing)
    rate = h.learning_rate
    h = h.replace(learning_rate=rate if tf.is_tensor(rate) else tf.constant(rate, ws[0].dtype))
    # Packed variables of one group are one, so what XLA gets has fewer members than variables.
    step = partial(_compiled_step, rule, donate=donate)
    if not tf.executing_eagerly():
        return _packed(rule, *given, h, members, step, packing)
    tensors, numbers = _parted(h)

    def in_a_graph() -> Callable:
        reference: Callable[[], Any] = weakref.ref(rule)
        form = _empty(h.__dict__)

        @tf.function(autograph=False)
        def whole(ws: list, gs: list, slots: list, shared: dict, tensors: list) -> State:
            rule, h = reference(), _filled(form, numbers, tensors)
            step = partial(_compiled_step, rule, donate=False)
            return _packed(rule, ws, gs, slots, shared, h, members, step, packing)

        return whole

    found = _kept(rule, ("eager", numbers, tuple(members)), in_a_graph)
    if found is None:
        return _packed(rule, *given, h, members, rule.arithmetic, packing)
    return found(*given, tensors)


def _packed(
    rule: Any,
    ws: list,
    gs: list,
    slots: list,
    shared: dict,
    h: Hyperparameters,
    members: Sequence[Hashable],
    step: Callable,
    packing: dict[str, Any],
) -> State:
    """`step`, like `rule.arithmetic`, on packed variables.

    Transforms that look at each gradient come before packing.
    """
    transforms = rule.all_transforms()
    apart, factor = not all(t.sees_one_vector for t in transforms), None
    if apart:
        gs, factor, shared = rule.transformed(gs, ws, shared, h)
    packs = Packing(rule.elementwise, ws, slots, members, **packing)
    ws, gs, slots = packs.joined(ws), packs.joined(gs), packs.joined_slots(slots)
    # TensorFlow's own kernel for a norm is three times faster than what its XLA makes of one.
    beside = not apart and any(isinstance(t, CommonFactor) for t in transforms)
    if beside:
        gs, factor, shared = rule.transformed(gs, ws, shared, h)
    ws, slots, shared = step(
        ws, gs, slots, shared, h, packs.members, factor, transformed=apart or beside
    )
    return packs.cut(ws), packs.cut_slots(slots), shared


def _compiled_step(
    rule: Any,
    ws: list,
    gs: list,
    slots: list,
    shared: dict,
    h: Hyperparameters,
    members: Sequence[Hashable],
    factor: Tensor | None,
    *,
    transformed: bool,
    donate: bool,
) -> State:
    """`rule.arithmetic` in XLA; new values of variables that may be overwritten lie in them."""
    tensors, numbers = _parted(h)
    leaves = tf.nest.flatten((ws, slots))
    specs = [(leaf.dtype, leaf.shape) for leaf in leaves]
    handles = [variable_of(leaf) if donate else None for leaf in leaves]
    held = tuple(handle is not None for handle in handles)
    given = [
        leaf if handle is None else handle for leaf, handle in zip(leaves, handles, strict=True)
    ]

    def make() -> Callable:
        reference: Callable[[], Any] = weakref.ref(rule)
        form = _empty(h.__dict__)
        nest = _empty((ws, slots))

        @tf.function(jit_compile=True, autograph=False)
        def compiled(
            given: list, gs: list, shared: dict, tensors: list, factor: Tensor | None
        ) -> tuple:
            leaves = [
                _read(leaf, *spec) if is_held else leaf
                for leaf, spec, is_held in zip(given, specs, held, strict=True)
            ]
            ws, slots = tf.nest.pack_sequence_as(nest, leaves)
            ws, slots, shared = reference().arithmetic(
                ws,
                gs,
                [tuple(own) for own in slots],
                shared,
                _filled(form, numbers, tensors),
                members,
                factor,
                transformed=transformed,
            )
            new = tf.nest.flatten((ws, slots))
            for leaf, value, is_held in zip(given, new, held, strict=True):
                if is_held:
                    tf.raw_ops.AssignVariableOp(resource=leaf, value=value)
            pairs = zip(new, held, strict=True)
            return [value for value, is_held in pairs if not is_held], shared

        return compiled

    shapes = tuple(tuple(shape) for _, shape in specs)
    found = _kept(rule, ("xla", numbers, tuple(members), held, shapes, transformed), make)
    if found is None:
        return rule.arithmetic(ws, gs, slots, shared, h, members, factor, transformed=transformed)
    returned, shared = found(given, gs, shared, tensors, factor)
    rest = iter(returned)
    new = [
        next(rest) if handle is None else _read(handle, *spec)
        for handle, spec in zip(handles, specs, strict=True)
    ]
    ws, slots = tf.nest.pack_sequence_as(_empty((ws, slots)), new)
    return ws, slots, shared


def variable_of(tensor: Tensor) -> Tensor | None:
    """The handle of the variable that a tensor of this graph was just read from."""
    # A constant from outside of the graph, such as a gradient that is kept, has no operation.
    if not hasattr(tensor, "graph") or tensor.op.type != "ReadVariableOp":
        return None
    return tensor.op.inputs[0]


def _read(handle: Tensor, dtype: Any, shape: Any) -> Tensor:
    value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
    value.set_shape(shape)
    return value


def _parted(h: Hyperparameters) -> tuple[list[Tensor], tuple]:
    """The tensors among hyper-parameters, and all the others, for which a function is made."""
    leaves = tf.nest.flatten(h.__dict__)
    tensors = [leaf for leaf in leaves if tf.is_tensor(leaf)]
    return tensors, tuple(_TENSOR if tf.is_tensor(leaf) else leaf for leaf in leaves)


def _filled(form: Any, numbers: tuple, tensors: list[Tensor]) -> Hyperparameters:
    """The inverse of `_parted`."""
    rest = iter(tensors)
    leaves = [next(rest) if number is _TENSOR else number for number in numbers]
    return Hyperparameters(**tf.nest.pack_sequence_as(form, leaves))


def _empty(nest: Any) -> Any:
    return tf.nest.map_structure(lambda _: None, nest)


def _kept(rule: Any, key: tuple, make: Callable[[], Callable]) -> Callable | None:
    """The rule's function of this key; None where there are too many."""
    key = (*key, _structure(rule))
    functions = _functions.setdefault(rule, {})
    if key not in functions:
        if len(functions) >= _MOST_VARIANTS:
            return None
        functions[key] = make()
    return functions[key]


def _is_compiled(rule: Any, ws: Sequence[Tensor]) -> bool:
    if rule.jit_compile is False or not ws:
        return False
    # Rows of embeddings are another number at every minibatch, and XLA compiles for one; several
    # replicas are kept in step by TensorFlow, not by XLA.
    if any(None in tuple(w.shape) for w in ws):
        return False
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return False
    if rule.jit_compile is True:
        return True
    if sum(math.prod(w.shape) for w in ws) < LEAST_ENTRIES:
        return False
    pays = rule.elementwise if rule.compiles is None else rule.compiles and len(ws) <= _MANY
    return pays and not _is_metal() and len({w.device for w in ws}) == 1


def _in_xla() -> bool:
    """Whether what is traced now is compiled as a whole."""
    return bool(GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def _is_metal() -> bool:
    """Whether this is TensorFlow on Apple's GPUs, which has no XLA."""
    apple = platform.system() == "Darwin" and "arm" in platform.processor().lower()
    return apple and bool(tf.config.list_physical_devices("GPU"))


def _structure(rule: Any) -> tuple:
    """The arguments of the rule and of its transforms, whose numbers the function is made for."""
    found = []
    for part in (rule, *rule.all_transforms()):
        stored = vars(part)
        for name in part.argument_defaults():
            value = stored.get(name)
            found.append(value if isinstance(value, Hashable) else repr(value))
    return tuple(found)
