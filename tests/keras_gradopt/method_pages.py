"""Writes the page of every method, from its docstring, with a picture of its path.

python -m tests.keras_gradopt.method_pages             all of docs/methods, on JAX
python -m tests.keras_gradopt.method_pages adam sgd    these pictures, and all of the text
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from keras_gradopt import catalogue, registry
from keras_gradopt.catalogue import Argument, Entry
from keras_gradopt.objective import Objective, bound, offered
from keras_gradopt.optimizer import Optimizer

Tensor = Any

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "methods"
STEPS = 100
# Factors of the default rate: half decades, a thousandth to a thousand times.
FACTORS = tuple(float(10 ** (k / 2)) for k in range(-6, 7))
# Final losses are means over so many steps: a path that swings may end low by chance.
LAST = 10
PATH_COLOUR = "#c1272d"
CONTOUR_COLOUR = "#8aa4b8"
SHADES = 10
CAPTION = (
    f"The path of {STEPS} steps with default arguments, at the learning rate out of "
    f"{len(FACTORS)}, half a decade apart around the default, that ends lowest.\n"
    "The two weights are a matrix of one row, so that rules for matrices act as such."
)
# Where a step takes long on the host and the rate is a share of the way, one path will do.
AT_DEFAULT = (
    f"The path of {STEPS} steps with default arguments.\nThe two weights are a matrix of one row."
)
AVERAGED = "\nDrawn is the average, by which one evaluates, not the weights in training."


# --- paths ---


@dataclasses.dataclass(frozen=True)
class Surface:
    """A loss of two weights.

    Attributes:
        name: What it is called in a picture.
        loss: From x and y, tensors or arrays, to the loss.
        residuals: From x and y to two numbers, the mean of whose squares is the loss above the
            lowest.
        start: Where paths begin.
        corners: Of the picture: (left, right, bottom, top).
        lowest: The loss at the minimum.
    """

    name: str
    loss: Callable[[Any, Any], Any]
    residuals: Callable[[Any, Any], list]
    start: tuple[float, float]
    corners: tuple[float, float, float, float]
    lowest: float


SURFACES = (
    # Rosenbrock's function with a bottom that is 20, not 200 times flatter than its walls are
    # steep: 100 steps get somewhere.
    Surface(
        "ravine",
        lambda x, y: (1 - x) ** 2 + 10 * (y - x * x) ** 2,
        lambda x, y: [2**0.5 * (1 - x), 20**0.5 * (y - x * x)],
        start=(-1.2, 1.4),
        corners=(-1.8, 1.8, -0.9, 2.3),
        lowest=0.0,
    ),
    # The ridge is y = 0; the quartic keeps what falls off it, on either side.
    Surface(
        "saddle",
        lambda x, y: x * x - y * y + y**4 / 4,
        lambda x, y: [2**0.5 * x, 2**0.5 * (y * y / 2 - 1)],
        start=(-1.2, 0.02),
        corners=(-2.0, 1.6, -2.1, 2.1),
        lowest=-1.0,
    ),
)


class Residuals(keras.layers.Layer):
    """A point of a surface as the weights of a layer, whose outputs are the residuals there."""

    def __init__(self, surface: Surface) -> None:
        super().__init__()
        self._surface = surface

    def build(self, shape: Any) -> None:
        del shape
        self.point = self.add_weight(shape=(1, 2), name="point")
        self.point.assign([self._surface.start])

    def call(self, x: Any) -> Any:
        w = ops.convert_to_tensor(self.point)
        return 0.0 * x + ops.stack(self._surface.residuals(w[:, 0], w[:, 1]), axis=-1)


def model_of(surface: Surface) -> tuple[keras.Model, tuple[Tensor, Tensor]]:
    """A model that is trained down a surface by least squares, and its one example."""
    model = keras.Sequential([keras.Input((1,)), Residuals(surface)])
    model.compile(loss="mse")
    data = (np.zeros((1, 1), "float32"), np.zeros((1, 2), "float32"))
    # Keras builds its loss at the first call.
    model.evaluate(*data, verbose=0)
    return model, (ops.convert_to_tensor(data[0]), ops.convert_to_tensor(data[1]))


@dataclasses.dataclass(frozen=True)
class Path2D:
    """Where an optimizer went.

    Attributes:
        points: Of shape (steps + 1, 2), the start first.
        losses: At the points.
        learning_rate: With which.
    """

    points: np.ndarray
    losses: np.ndarray
    learning_rate: float


def best_path(cls: type[Optimizer], surface: Surface, steps: int = STEPS) -> Path2D:
    """The path at the rate among `FACTORS` times the default that ends lowest.

    Rules whose steps run on the host have a path at the default rate only.

    Args:
        cls: A class of the registry.
        surface: The loss.
        steps: How many, at least 1.

    Raises:
        ValueError: It ends no lower than it began at any of them.
    """
    model, data = model_of(surface)
    (w,) = model.trainable_variables
    optimizer = cls.example()
    with bound(model), warnings.catch_warnings():
        # That a layer is unknown to methods that look at layers.
        warnings.simplefilter("ignore")
        optimizer.build([w])
    default = float(ops.convert_to_numpy(ops.convert_to_tensor(optimizer.learning_rate)))
    factors = (1.0,) if getattr(cls, "host_step", False) else FACTORS
    rates = np.array([default * factor for factor in factors], "float32")
    points = np.array(ops.convert_to_numpy(_paths(optimizer, model, data, rates, steps)))
    start = np.broadcast_to(surface.start, (len(rates), 1, 2))
    points = np.concatenate([start, points], axis=1).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        losses = np.asarray(surface.loss(points[..., 0], points[..., 1]))
    ends = losses[:, -LAST:].mean(axis=1)
    best = int(np.argmin(np.where(np.isfinite(ends), ends, np.inf)))
    if not ends[best] < losses[best, 0]:
        raise ValueError(
            f"{cls.__name__} does not go down the {surface.name} at any of the rates {rates}: "
            f"the best ends at {ends[best]:g}, from {losses[best, 0]:g}."
        )
    return Path2D(points[best], losses[best], float(rates[best]))


def _paths(
    optimizer: Optimizer, model: keras.Model, data: tuple, rates: np.ndarray, steps: int
) -> Tensor:
    """The points of all rates at once, of shape (rates, steps, 2)."""
    (w,) = model.trainable_variables
    variables = [w, *optimizer.variables]
    first = [ops.convert_to_tensor(v.value) for v in variables]

    def step(rate: Tensor, values: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
            optimizer.learning_rate = rate
            _, gs = Objective(model, data).value_and_grad([values[0]])
            with offered(Objective(model, data)):
                optimizer.apply(gs, [w])
            new = [_value(scope, v) for v in variables]
            # What an average over the steps is judged by is the average.
            optimizer.put_evaluation_weights([w])
            point = _value(scope, w)[0]
        return new, point

    def path(rate: Tensor) -> Tensor:
        _, points = ops.scan(lambda values, _: step(rate, values), first, length=steps)
        return points

    return ops.vectorized_map(path, ops.convert_to_tensor(rates))


def _value(scope: keras.StatelessScope, variable: keras.Variable) -> Tensor:
    value = scope.get_current_value(variable)
    return ops.convert_to_tensor(variable.value if value is None else value)


def draw(paths: Sequence[Path2D], title: str, file: Path) -> None:
    """Both surfaces side by side, as a PNG.

    Args:
        paths: One per surface.
        title: Over both.
        file: Where to.
    """
    figure = Figure(figsize=(8, 3.6), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(SURFACES))
    for axis, surface, path in zip(axes, SURFACES, paths, strict=True):
        left, right, bottom, top = surface.corners
        x, y = np.meshgrid(np.linspace(left, right, 161), np.linspace(bottom, top, 161))
        height = np.log10(surface.loss(x, y) - surface.lowest + 1e-2)
        axis.contour(
            x, y, height, levels=12, colors=CONTOUR_COLOUR, linewidths=0.6, linestyles="solid"
        )
        # A step that leaves the picture is cut off at its edge, not scaled to.
        axis.plot(*path.points.T, "-", color=PATH_COLOUR, linewidth=1.2)
        axis.plot(*path.points.T, ".", color=PATH_COLOUR, markersize=3)
        axis.plot(*path.points[0], "o", color="black", markersize=6, label="start")
        axis.plot(*path.points[-1], "*", color="black", markersize=10, label="end")
        axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
        axis.set_title(
            f"{surface.name}: {len(path.points) - 1} steps at rate {path.learning_rate:.2g}",
            fontsize=9,
        )
    axes[0].legend(loc="lower left", fontsize=8, framealpha=0.9)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    canvas.draw()
    # A palette makes the file a third as large. One found by counting would lose a short path.
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(palette=_palette(), dither=Image.Dither.NONE).save(file, optimize=True)


def _palette() -> Image.Image:
    """White, and each colour in `SHADES` mixtures with it, which smooth its lines."""
    inks = np.array([to_rgb(c) for c in (PATH_COLOUR, CONTOUR_COLOUR, "black")])
    shares = np.linspace(0, 1, SHADES + 1)[1:, None, None]
    colours = np.concatenate([np.ones((1, 3)), (1 - shares * (1 - inks)).reshape(-1, 3)])
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.rint(255 * colours).astype("uint8").tobytes())
    return palette


# --- text ---


def pages() -> dict[str, str]:
    """The text of every page and of the index, by file name."""
    entries = catalogue.methods()
    return {f"{e.name}.md": page(e) for e in entries} | {"README.md": index(entries)}


def index(entries: Sequence[Entry]) -> str:
    """The table of all methods."""
    lines = [
        "# Methods",
        "",
        "Every optimizer, with what it costs.",
        "State is memory in multiples of the parameters, gradients are those that a step takes.",
        "Made from the docstrings by `python -m tests.keras_gradopt.method_pages`.",
        "",
        "| method | family | year | what it does | state | gradients |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for e in sorted(entries, key=lambda e: e.class_name.lower()):
        cells = (
            f"[{e.class_name}]({e.name}.md)",
            e.family,
            str(e.year),
            in_cell(e.summary),
            f"{e.state_multiple:g}",
            f"{e.gradient_evaluations_per_step:g}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(entry: Entry) -> str:
    """One method's page."""
    cls = registry.optimizer_classes()[entry.class_name]
    parts = catalogue.sections(inspect.cleandoc(cls.__doc__ or ""))
    intro = [paragraph(text) for text in re.split(r"\n\s*\n", parts[""])]
    cost = (
        f"Family `{entry.family}`, {entry.year}.\n"
        f"State: {entry.state_multiple:g} times the parameters' memory.\n"
        f"Gradients of the loss per step: {entry.gradient_evaluations_per_step:g}."
    )
    blocks = [
        f"# {entry.class_name}",
        *intro,
        cost,
        f"![Paths on a ravine and past a saddle]({entry.name}.png)",
        AT_DEFAULT
        if getattr(cls, "host_step", False)
        else CAPTION + AVERAGED * cls.averages_weights,
        "## Arguments",
        "\n".join(
            [
                "| name | default | range | meaning |",
                "| --- | --- | --- | --- |",
                *(row(argument, cls) for argument in entry.hyperparameters),
                *(
                    f"| `{name}` | | | {in_cell(text)} |"
                    for name, text in catalogue.argument_texts(parts["Args"]).items()
                    if name.startswith("*")
                ),
            ]
        ),
        "Numbers with a range may be schedules, unless it says fixed.",
        "## Example",
        f"```pycon\n{parts['Example'].strip()}\n```",
        "## References",
        sentences(entry.references),
        "[All methods](README.md)",
    ]
    return "\n\n".join(blocks) + "\n"


def row(argument: Argument, cls: type[Optimizer]) -> str:
    """One argument's row of the table."""
    given = cls.argument_defaults()[argument.name]
    default = "required" if given is inspect.Parameter.empty else f"`{shown(argument.default)}`"
    allowed = argument.range or ""
    if argument.range and not argument.schedulable:
        allowed += ", fixed"
    cells = (f"`{argument.name}`", default, allowed, in_cell(argument.description))
    return f"| {' | '.join(cells)} |"


def shown(value: Any) -> str:
    """A default as one writes it."""
    if isinstance(value, dict) and "class_name" in value:
        return f"{value['class_name']}(...)"
    return f"{value:g}" if isinstance(value, float) else repr(value)


def paragraph(text: str) -> str:
    """A docstring's paragraph: equations on lines of their own, sentences one per line."""
    pieces = [piece.strip() for piece in re.split(r"(\$\$.+?\$\$)", text, flags=re.DOTALL)]
    return "\n\n".join(
        f"$$\n{' '.join(piece[2:-2].split())}\n$$" if piece.startswith("$$") else sentences(piece)
        for piece in pieces
        if piece
    )


def sentences(text: str) -> str:
    """Text with one sentence per line."""
    return re.sub(r"(?<=[a-z0-9)\]`$]\.) (?=[A-Z`])", "\n", " ".join(text.split()))


def in_cell(text: str) -> str:
    """Text for a table's cell, where a bare bar would end it."""
    formulas_and_words = re.split(r"(\$[^$]+\$)", text)
    return "".join(
        part.replace(r"\|", r"\Vert ").replace("|", r"\vert ")
        if part.startswith("$")
        else part.replace("|", r"\|")
        for part in formulas_and_words
    )


def main(names: Sequence[str]) -> None:
    """Writes the text of all, and the pictures of the methods named (none named: of all)."""
    texts = pages()
    FOLDER.mkdir(exist_ok=True)
    for file in FOLDER.iterdir():
        if f"{file.stem}.md" not in texts:
            file.unlink()
    for name, text in texts.items():
        (FOLDER / name).write_text(text, "utf-8")
    for entry in catalogue.methods():
        if names and entry.name not in names:
            continue
        cls = registry.optimizer_classes()[entry.class_name]
        draw(
            [best_path(cls, surface) for surface in SURFACES],
            entry.class_name,
            FOLDER / f"{entry.name}.png",
        )


if __name__ == "__main__":
    main(sys.argv[1:])
