"""Sets of variables: the shapes that optimizers are measured on."""

from __future__ import annotations

import math

Shape = tuple[int, ...]


def resnet50() -> list[Shape]:
    """ResNet-50 on 1000 classes: convolutions without bias, each with a normalisation."""
    convolutions: list[Shape] = [(7, 7, 3, 64)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            if block == 0:
                convolutions.append((1, 1, inputs, 4 * width))
            convolutions += [
                (1, 1, inputs, width),
                (3, 3, width, width),
                (1, 1, width, 4 * width),
            ]
            inputs = 4 * width
    shapes: list[Shape] = []
    for kernel in convolutions:
        shapes += [kernel, kernel[-1:], kernel[-1:]]
    return [*shapes, (inputs, 1000), (1000,)]


def many_small(blocks: int = 80) -> list[Shape]:
    """Depthwise separable convolutions whose widths grow from block to block."""
    shapes: list[Shape] = []
    for block in range(blocks):
        width, wider = (72 + 7 * i // 10 for i in (block, block + 1))
        shapes += [(3, 3, width, 1), (1, 1, width, wider), (wider,), (wider,), (wider,)]
    return shapes


def transformer(layers: int, width: int, tokens: int, positions: int) -> list[Shape]:
    """A decoder with an output layer of its own.

    Kernels of attention are plain matrices, as in most libraries; Keras' own have a third axis,
    which every library treats in another way where matrices count.
    """
    layer: list[Shape] = [
        *[(width, width), (width,)] * 4,
        *[(width,)] * 4,
        *[(width, 4 * width), (4 * width,), (4 * width, width), (width,)],
    ]
    ends: list[Shape] = [(tokens, width), (positions, width), (width,), (width,)]
    return [*ends, *layer * layers, (width, tokens), (tokens,)]


SETS: dict[str, list[Shape]] = {
    "resnet50": resnet50(),
    "many_small": many_small(),
    "transformer": transformer(layers=6, width=320, tokens=4000, positions=256),
    # For methods whose work grows with the cube of a matrix' side.
    "matrices": transformer(layers=2, width=128, tokens=500, positions=64),
}
LARGE = ("resnet50", "transformer")
SMALL = ("many_small",)


def size(shapes: list[Shape]) -> int:
    """Entries of all variables."""
    return sum(math.prod(shape) for shape in shapes)


def in_words(shapes: list[Shape]) -> str:
    """Tensors and parameters, as a heading says it."""
    return f"{len(shapes)} tensors, {size(shapes) / 1e6:.2f} M parameters"
