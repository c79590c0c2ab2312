"""Rewrites recorded vectors as ATen calls, scalar factors folded into them."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from keras_gradopt.backend.torch.recording import Nodes, Scalar, Vector

# Operations on vectors that can write where they are told, by their names in torch.
WRITE_OUT = {
    *("add", "mul", "div", "addcmul", "addcdiv", "lerp", "sqrt", "rsqrt", "reciprocal", "pow"),
    *("abs", "neg", "sign", "maximum", "minimum", "clamp", "exp", "log", "tanh", "where"),
    *("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not"),
}
# Operations that cost less by their names in torch than as recorded, with the same operands.
_PLAIN = {name: getattr(torch, name) for name in ("sum", "mean", "amax", "amin", "unsqueeze")}
_PLAIN["linalg_vector_norm"] = torch.linalg.vector_norm


@dataclass(eq=False)
class Scaled:
    """`scale` times a vector that is there, or times a product or quotient that is still to do."""

    kind: str
    parts: tuple[Vector, ...]
    scale: Scalar | None = None


@dataclass
class Call:
    """One ATen call `torch.<name>(*operands, **keywords, out=result)`, or `function` without out.

    Scalars among the operands are factors, or the tensors that they were when recorded.
    """

    name: str
    operands: tuple
    keywords: dict[str, Any]
    result: Vector
    function: Callable | None = None
    as_recorded: bool = False


class Lowering:
    """Turns the recorded vectors into calls, scalar factors folded into them.

    Args:
        nodes: What was recorded.
        outputs: The vectors to compute.
        decided: Conditions common to all coordinates, with what they are in this step.
    """

    def __init__(
        self, nodes: Nodes, outputs: Sequence[Vector], decided: Mapping[Scalar, bool]
    ) -> None:
        self.nodes = nodes
        self.calls: list[Call] = []
        # Scales under a root, which must not be negative: sqrt(s x) is done as sqrt(s) sqrt(x).
        self.under_roots: list[Scalar] = []
        # Scales that must not be zero: a x + b y is done as b (y + a/b x).
        self.divisors: list[Scalar] = []
        self._decided = decided
        self._made: dict[Vector, Call] = {}
        self._uses = _uses(outputs)
        self._scaled: dict[Vector, Scaled] = {}
        self._full: dict[Vector, Vector] = {}
        self.outputs = [self._materialized(o) for o in outputs]

    def _of(self, node: Vector) -> Scaled:
        if node not in self._scaled:
            scaled = self._lowered(node)
            if scaled.kind != "base" and self._uses[node] > 1:
                scaled = self._done(scaled)
            self._scaled[node] = scaled
        return self._scaled[node]

    def _materialized(self, node: Vector) -> Vector:
        """The vector that holds a node's values, scale included."""
        if node not in self._full:
            self._full[node] = self._whole(self._of(node), node.dtype)
        return self._full[node]

    def _whole(self, scaled: Scaled, dtype: torch.dtype) -> Vector:
        scaled = self._done(scaled)
        if scaled.scale is None:
            return scaled.parts[0]
        return self._call("mul", (scaled.parts[0], scaled.scale), dtype)

    def _done(self, scaled: Scaled) -> Scaled:
        """The same with its product or quotient computed, the scale still apart."""
        if scaled.kind == "base":
            return scaled
        result = self._call(scaled.kind, scaled.parts, scaled.parts[0].dtype)
        return Scaled("base", (result,), scaled.scale)

    def _call(self, name: str, operands: tuple, dtype: torch.dtype, **keywords: Any) -> Vector:
        shapes = [o.shape for o in operands if isinstance(o, Vector)]
        result = Vector(dtype, tuple(torch.broadcast_shapes(*shapes)))
        self._made[result] = Call(name, operands, keywords, result)
        self.calls.append(self._made[result])
        return result

    def _folds(self, scale: Scalar | None) -> bool:
        """Whether a call takes this number as a factor: on a device, reading one would wait."""
        return scale is None or self.nodes.on_host or scale.number is not None

    def _times(self, *scales: Scalar | None) -> Scalar | None:
        product: Scalar | None = None
        for scale in scales:
            if scale is not None:
                product = (
                    scale if product is None else self.nodes.scalar(operator.mul, product, scale)
                )
        return product

    def _over(self, above: Scalar | None, below: Scalar | None) -> Scalar | None:
        if below is None or below.number == 1.0:
            return above
        return self.nodes.scalar(_quotient, above or self.nodes.constant(1.0), below)

    def _scale_by(self, scaled: Scaled, factor: Scalar | None) -> Scaled:
        if factor is None or factor.number == 1.0:
            return scaled
        if not self._folds(factor):
            whole = self._whole(scaled, scaled.parts[0].dtype)
            return Scaled("base", (self._call("mul", (whole, factor), whole.dtype),))
        return Scaled(scaled.kind, scaled.parts, self._times(scaled.scale, factor))

    # -- one recorded operation

    def _lowered(self, node: Vector) -> Scaled:
        if not node.operation:
            return Scaled("base", (node,))
        floats = node.dtype.is_floating_point and all(
            o.dtype == node.dtype for o in node.operands if isinstance(o, Vector)
        )
        method = getattr(self, f"_lower_{node.operation}", None) if floats else None
        found = method(node) if method is not None else None
        return self._lower_other(node) if found is None else found

    def _lower_other(self, node: Vector) -> Scaled:
        def whole(value: Any) -> Any:
            return self._materialized(value) if isinstance(value, Vector) else value

        operands = tuple(whole(o) for o in node.operands)
        keywords = {k: whole(v) for k, v in node.keywords.items()}
        # A view shows the memory that its operand lies in.
        origin = operands[0] if node.origin is not None else None
        result = Vector(node.dtype, node.shape, is_view=node.is_view, origin=origin)
        known = node.operation in WRITE_OUT and not keywords
        function = None if known else _PLAIN.get(node.operation, node.function)
        self.calls.append(Call(node.operation, operands, keywords, result, function, True))
        return Scaled("base", (result,))

    def _lower_where(self, node: Vector) -> Scaled | None:
        condition, yes, no = node.operands
        chosen = yes if self._decided.get(condition, True) else no
        if condition not in self._decided or not isinstance(chosen, Vector):
            return None
        return self._of(chosen)

    def _lower_neg(self, node: Vector) -> Scaled:
        return self._scale_by(self._of(node.operands[0]), self.nodes.constant(-1.0))

    def _lower_square(self, node: Vector) -> Scaled:
        return self._product(node.operands[0], node.operands[0])

    def _lower_pow(self, node: Vector) -> Scaled | None:
        base, exponent = node.operands
        return self._product(base, base) if exponent == 2 and isinstance(base, Vector) else None

    def _lower_mul(self, node: Vector) -> Scaled | None:
        a, b = node.operands
        if isinstance(a, Vector) and isinstance(b, Vector):
            return self._product(a, b)
        vector, other = (a, b) if isinstance(a, Vector) else (b, a)
        factor = self.nodes.as_scalar(other)
        return None if factor is None else self._scale_by(self._of(vector), factor)

    def _product(self, a: Vector, b: Vector) -> Scaled:
        left, right = self._done(self._of(a)), self._done(self._of(b))
        scale = self._times(left.scale, right.scale)
        return Scaled("mul", (left.parts[0], right.parts[0]), scale)

    def _lower_div(self, node: Vector) -> Scaled | None:
        if node.keywords:
            return None
        a, b = node.operands
        if isinstance(a, Vector) and isinstance(b, Vector):
            above, below = self._done(self._of(a)), self._done(self._of(b))
            scale = self._over(above.scale, below.scale)
            return Scaled("div", (above.parts[0], below.parts[0]), scale)
        if isinstance(a, Vector):
            below_scalar = self.nodes.as_scalar(b)
            if below_scalar is None or not self._folds(below_scalar):
                return None
            scaled = self._of(a)
            return Scaled(scaled.kind, scaled.parts, self._over(scaled.scale, below_scalar))
        return None

    def _lower_sqrt(self, node: Vector) -> Scaled:
        inside = self._done(self._of(node.operands[0]))
        scale = None
        if inside.scale is not None:
            self.under_roots.append(inside.scale)
            scale = self.nodes.scalar(_root, inside.scale)
        return Scaled("base", (self._call("sqrt", inside.parts, node.dtype),), scale)

    def _lower_add(self, node: Vector) -> Scaled | None:
        return self._sum(node, 1.0)

    def _lower_sub(self, node: Vector) -> Scaled | None:
        return self._sum(node, -1.0)

    def _lower_rsub(self, node: Vector) -> Scaled | None:
        swapped = (node.operands[1], node.operands[0])
        return self._sum(Vector(node.dtype, node.shape, "sub", swapped, node.keywords), -1.0)

    def _sum(self, node: Vector, sign: float) -> Scaled | None:
        a, b = node.operands[:2]
        factor = self.nodes.as_scalar(node.keywords.get("alpha", 1.0))
        if factor is None:
            return None
        if sign != 1.0 or factor.number != 1.0:
            factor = self._times(factor, self.nodes.constant(sign))
        else:
            factor = None
        if isinstance(a, Vector) and isinstance(b, Vector):
            return self._vector_sum(self._of(a), self._scale_by(self._of(b), factor), node.dtype)
        if isinstance(a, Vector):
            number, vector, scaled = self.nodes.as_scalar(b), a, self._of(a)
            number = number and self._times(number, factor)
        else:
            number, vector = self.nodes.as_scalar(a), b
            scaled = self._scale_by(self._of(b), factor)
        if number is None:
            return None
        return self._scalar_sum(number, self._done(scaled), vector)

    def _vector_sum(self, left: Scaled, right: Scaled, dtype: torch.dtype) -> Scaled:
        if right.kind != "base":
            return self._plus_pair(left, right, dtype)
        if left.kind != "base":
            return self._plus_pair(right, left, dtype)
        x, y = left.parts[0], right.parts[0]
        if x is y:
            one = self.nodes.constant(1.0)
            total = self.nodes.scalar(operator.add, left.scale or one, right.scale or one)
            return Scaled("base", (x,), total)
        if self._sum_to_one(left.scale, right.scale):
            return Scaled("base", (self._call("lerp", (x, y, right.scale), dtype),))
        return Scaled("base", *self._shared_scale(left, right, dtype))

    def _shared_scale(
        self, left: Scaled, right: Scaled, dtype: torch.dtype
    ) -> tuple[tuple[Vector], Scalar | None]:
        """A sum and what is left to scale it by, where both terms may be scaled."""
        (x,), (y,) = left.parts, right.parts
        if left.scale is None:
            keywords = {} if right.scale is None else {"alpha": right.scale}
            return (self._call("add", (x, y), dtype, **keywords),), None
        if right.scale is None:
            return (self._call("add", (y, x), dtype, alpha=left.scale),), None
        if right.scale.number == 0.0:
            return (self._whole(left, dtype),), None
        self.divisors.append(right.scale)
        share = self._over(left.scale, right.scale)
        return (self._call("add", (y, x), dtype, alpha=share),), right.scale

    def _plus_pair(self, left: Scaled, pair: Scaled, dtype: torch.dtype) -> Scaled:
        """A sum with a product or quotient that nothing else needs, in one call."""
        x = self._whole(left, dtype)
        keywords = {} if pair.scale is None else {"value": pair.scale}
        name = f"addc{pair.kind}"
        return Scaled("base", (self._call(name, (x, *pair.parts), dtype, **keywords),))

    def _scalar_sum(self, number: Scalar, scaled: Scaled, vector: Vector) -> Scaled:
        """A number and what `vector` is, which stands in `scaled`."""
        if number.number is not None and self.nodes.on_host:
            if scaled.scale is not None:
                # A number as a tensor may stand first, and the vector is scaled on the way.
                operands = (torch.tensor(number.number, dtype=vector.dtype), scaled.parts[0])
                total = self._call("add", operands, vector.dtype, alpha=scaled.scale)
                return Scaled("base", (total,))
            if self._uses[vector] == 1 and self._absorbed(number.number, scaled.parts[0]):
                return scaled
        whole = self._whole(scaled, vector.dtype)
        return Scaled("base", (self._call("add", (whole, number), vector.dtype),))

    def _absorbed(self, number: float, total: Vector) -> bool:
        """Whether a number joined a sum with a scaled first term: s x + y + n is (n + s x) + y."""
        call = self._made.get(total)
        if call is None or call.name not in ("add", "addcmul", "addcdiv"):
            return False
        first = self._made.get(call.operands[0])
        if first is None or first.name != "mul" or not isinstance(first.operands[1], Scalar):
            return False
        readers = [
            c for c in self.calls for o in (*c.operands, *c.keywords.values()) if o is first.result
        ]
        if readers != [call] or first.result in self._full.values():
            return False
        first.keywords = {"alpha": first.operands[1]}
        first.operands = (torch.tensor(number, dtype=total.dtype), first.operands[0])
        first.name = "add"
        return True

    def _sum_to_one(self, a: Scalar | None, b: Scalar | None) -> bool:
        if a is None or b is None:
            return False
        if a.number is not None and b.number is not None:
            return math.isclose(a.number + b.number, 1.0, abs_tol=1e-12)
        return _is_rest_of(b, a) or _is_rest_of(a, b)


def _is_rest_of(b: Scalar, a: Scalar) -> bool:
    """Whether b was computed as 1 - a."""
    name = getattr(getattr(b.operation, "overloadpacket", None), "__name__", "")
    return (name == "rsub" and b.operands == (a, 1)) or (
        name == "sub" and len(b.operands) == 2 and b.operands[0] == 1 and b.operands[1] is a
    )


def _quotient(a: Any, b: Any) -> Any:
    if isinstance(b, float) and b == 0.0:
        return math.nan if a == 0.0 else math.copysign(math.inf, a)
    return a / b


def _root(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return x.sqrt()
    return math.sqrt(x) if x >= 0 else math.nan


def _uses(outputs: Sequence[Vector]) -> Counter:
    """How often each vector is read by those that the outputs need."""
    uses: Counter = Counter(outputs)
    waiting, seen = list(outputs), set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        for operand in (*node.operands, *node.keywords.values()):
            if isinstance(operand, Vector):
                uses[operand] += 1
                waiting.append(operand)
    return uses
