"""When two recordings are the same program over tensors of different shapes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from keras_gradopt.backend.torch.recording import Nodes, Scalar, Vector

Shape = tuple[int, ...]


def structure(
    nodes: Nodes, given: Sequence[Scalar], inputs: Sequence[Vector], outputs: Sequence[Vector]
) -> tuple[Hashable, tuple[Shape, ...]]:
    """What a recording does, with shapes known by their number only, and these shapes in order.

    Two recordings of equal structures are one program, each over its own shapes. Numbers that a
    rule takes from a shape are constants, which keep structures apart.

    Args:
        nodes: What was recorded.
        given: The scalars that each step gives.
        inputs: Weights, gradient and slots.
        outputs: New weights and slots.
    """
    found = _Structure(nodes, [*given, *inputs])
    ends = [found.reference(o) for o in outputs]
    answers = [(found.reference(scalar), answer) for scalar, answer in nodes.decisions]
    return (tuple(found.rows), tuple(ends), tuple(answers)), tuple(found.shapes)


class _Structure:
    def __init__(self, nodes: Nodes, entries: Sequence[Scalar | Vector]) -> None:
        self.rows: list[Hashable] = [nodes.on_host]
        self.shapes: dict[Shape, int] = {}
        self._numbers: dict[Scalar | Vector, int] = {}
        for entry in entries:
            self._add(entry)

    def reference(self, root: Any) -> Hashable:
        """What stands for a node, whose operands have their rows before it."""
        waiting = [root]
        while waiting:
            node = waiting[-1]
            missing = [n for n in _operands(node) if n not in self._numbers]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if node not in self._numbers:
                self._add(node)
        return self._word(root)

    def _add(self, node: Scalar | Vector) -> None:
        words = tuple(self._word(o) for o in node.operands)
        row: Hashable
        if isinstance(node, Scalar):
            row = (node.operation, words, repr(node.number))
        else:
            keywords = tuple(sorted((k, self._word(v)) for k, v in node.keywords.items()))
            shape = self.shapes.setdefault(node.shape, len(self.shapes))
            row = (node.function, node.operation, words, keywords, node.dtype, shape)
        self._numbers[node] = len(self._numbers)
        self.rows.append(row)

    def _word(self, value: Any) -> Hashable:
        if isinstance(value, Scalar | Vector):
            return self._numbers[value]
        if isinstance(value, list | tuple):
            return tuple(self._word(v) for v in value)
        # As words: 1, 1.0 and True are equal, and so are 0.0 and -0.0.
        return str(value)


def _operands(node: Scalar | Vector) -> list[Any]:
    keywords = node.keywords.values() if isinstance(node, Vector) else ()
    return [o for o in (*node.operands, *keywords) if isinstance(o, Scalar | Vector)]
