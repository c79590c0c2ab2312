"""surface: the loss on a plane through a model's own weights, with the training's path on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from keras_gradopt.arguments import positive_int
from keras_gradopt.curvature.data_landscape import DataLandscape, Options, landscape_of, watched
from keras_gradopt.curvature.descent import reach
from keras_gradopt.curvature.directions import Directions, two_directions
from keras_gradopt.curvature.plots import finish, graph_objects

_KINDS = ("hessian", "random", "path")


@dataclasses.dataclass(frozen=True)
class Surface:
    r"""The loss on a plane $w + a\, d_1 + b\, d_2$.

    Attributes:
        a: Coordinates along the first direction, rising, shape (points,).
        b: Coordinates along the second, shape (points,).
        losses: At `losses[i, j]` the loss at `a[i]`, `b[j]`; it may be infinite or NaN far out.
        directions: Shape (2, size).
        names: What the directions are.
        centre: The weights $w$, shape (size,).
        path: The path's coordinates in the plane, shape (steps, 2); None without a path.
        path_losses: The loss at the path's own points, shape (steps,), not at their projections.
        path_share: Share of the path's squared distance from $w$ that lies in the plane, in [0, 1].
    """

    a: np.ndarray
    b: np.ndarray
    losses: np.ndarray
    directions: np.ndarray
    names: tuple[str, str]
    centre: np.ndarray
    path: np.ndarray | None = None
    path_losses: np.ndarray | None = None
    path_share: float | None = None

    def weights(self, a: float, b: float) -> np.ndarray:
        """The weights at a point of the plane, flat; `DataLandscape.arrays` cuts them."""
        moved: np.ndarray = self.centre + np.array([a, b]) @ self.directions
        return moved

    def plot(self, path: str | Path | None = None, *, solid: bool = False) -> Any:
        """The loss as contours, or as a surface in space, with the training's path.

        Args:
            path: Where to write the figure as an HTML page; None writes nothing.
            solid: Whether to draw the surface in space.

        Returns:
            A `plotly.graph_objects.Figure`.

        Raises:
            ImportError: plotly is not installed.
        """
        go = graph_objects("Surface.plot")
        losses = np.where(np.isfinite(self.losses), self.losses, np.nan)
        heights, title = _heights(losses)
        figure = go.Figure()
        # plotly has the second coordinate in rows.
        if solid:
            figure.add_surface(x=self.a, y=self.b, z=heights.T, colorbar_title=title)
        else:
            figure.add_contour(x=self.a, y=self.b, z=heights.T, colorbar_title=title, ncontours=30)
        scatter = figure.add_scatter3d if solid else figure.add_scatter
        if self.path is not None and self.path_losses is not None:
            own = {"z": _heights(losses, self.path_losses)[0]} if solid else {}
            name = f"training ({self.path_share:.0%} of its distance lies in the plane)"
            steps, coordinates = [f"{v:.4g}" for v in self.path_losses], self.path.T
            scatter(
                x=coordinates[0],
                y=coordinates[1],
                mode="lines+markers",
                marker_size=4,
                text=steps,
                name=name,
                **own,
            )
        here = losses[len(self.a) // 2, len(self.b) // 2]
        own = {"z": _heights(losses, np.array([here]))[0]} if solid else {}
        scatter(x=[0.0], y=[0.0], mode="markers", name="the model's weights", **own)
        axes = dict(zip(("xaxis_title", "yaxis_title"), self.names, strict=True))
        if solid:
            axes = {"scene": {**axes, "zaxis_title": title}}  # type: ignore[dict-item]
        return finish(figure, path, "Loss around the weights", legend_orientation="h", **axes)


def surface(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    path: Sequence[Any] | None = None,
    directions: Directions = "hessian",
    points: int = 21,
    span: float | tuple[float, float] | None = None,
    seed: int = 0,
    progress: bool = False,
    **options: Unpack[Options],
) -> Surface:
    r"""The loss around a model's own weights, on two directions.

    Use it to see whether a minimum is wide, a valley long, and how the training came in. The loss
    is computed on a square grid of $w + a\, d_1 + b\, d_2$ around the present weights $w$.

    Directions `"hessian"` are the eigenvectors of the two largest eigenvalues, of length 1: the
    sharpest there are. `"random"` are Gaussian, each filter scaled to the norm of the weights' one,
    so that surfaces of different networks can be compared; biases and other vectors stay.
    `"path"` are the main components of the training's path. A path is projected onto the plane
    by least squares; on random directions next to nothing of it is seen, on its own the most.

    Args:
        model: A compiled model, or a `DataLandscape` of one.
        x: Inputs, as `DataLandscape` takes them; None with a `DataLandscape`.
        y: Targets; None with a `DataLandscape`.
        path: The weights on the way, in order: at each point a list of arrays as
            `model.get_weights()` gives them, or of trainable variables only, or one flat vector.
            State that is not trainable stays as it is now.
        directions: `"hessian"`, `"random"` or `"path"`.
        points: Along each direction, at least 3, odd so that $w$ is among them. There are as many
            passes over the data as the square of it.
        span: The farthest coordinate along both directions, or along each, above 0. None is 1
            for random directions, and for the others what holds the path, or, without one, a tenth
            of the weights' norm, at least 0.1.
        seed: Of random directions, and of Lanczos.
        progress: Whether to show a bar.
        **options: `sample_weight`, `batch_size`, `training`, `variables`, `curvature`: see
            `DataLandscape`.

    Returns:
        `Surface`.

    Raises:
        ValueError: An argument is out of its range, the path fits no weights, or the model has
            fewer than two weights.

    Example:
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> path = [model.get_weights()]
        >>> keep = keras.callbacks.LambdaCallback(
        ...     on_epoch_end=lambda epoch, logs: path.append(model.get_weights())
        ... )
        >>> history = model.fit(x, y, epochs=4, verbose=0, callbacks=[keep])
        >>> plane = keras_gradopt.curvature.surface(
        ...     model, x, y, path=path, directions="path", points=5
        ... )
        >>> plane.losses.shape, plane.path.shape, bool(plane.path_share > 0.9)
        ((5, 5), (5, 2), True)

    References:
        Li, Xu, Taylor, Studer, Goldstein. Visualizing the Loss Landscape of Neural Nets. NeurIPS
        2018, Sections 4 (filter normalisation) and 7 (paths).
    """
    if directions not in _KINDS:
        raise ValueError(
            f"directions must be one of {', '.join(map(repr, _KINDS))}, received {directions!r}."
        )
    points = positive_int("points", points, least=3)
    if points % 2 == 0:
        raise ValueError(
            f"points must be odd, so that the weights are among them, received {points}."
        )
    landscape = landscape_of(model, x, y, options)
    if landscape.size < 2:
        raise ValueError("A surface needs two directions, but the model has one weight only.")
    way = None if path is None else np.stack([_vector(landscape, p) for p in path])
    product = watched(landscape.product, None, progress=progress and directions == "hessian")
    two, names = two_directions(landscape, directions, way, product, seed)
    projected = (
        None
        if way is None
        else np.linalg.lstsq(two.T, (way - landscape.position).T, rcond=None)[0].T
    )
    spans = _spans(landscape, directions, projected, span)
    a, b = (np.linspace(-s, s, points) for s in spans)
    value = _watched_value(landscape, points**2, progress=progress)
    here = landscape.position
    losses = [[value(here + p * two[0] + q * two[1]) for q in b] for p in a]
    found = Surface(a, b, np.array(losses), two, names, here)
    if way is None or projected is None:
        return found
    apart = way - here
    left = np.sum((apart - projected @ two) ** 2)
    whole = np.sum(apart**2)
    return dataclasses.replace(
        found,
        path=projected,
        path_losses=np.array([landscape.value(w) for w in way]),
        path_share=float(1 - left / whole) if whole else 1.0,
    )


def _watched_value(landscape: DataLandscape, target: int, *, progress: bool) -> Any:
    if not progress:
        return landscape.value
    return watched(landscape.value, target, progress=True)


def _vector(landscape: DataLandscape, point: Any) -> np.ndarray:
    """The weights at a point of a path as one vector."""
    if isinstance(point, np.ndarray) and point.shape == (landscape.size,):
        return point.astype("float64")
    arrays = [np.asarray(a) for a in point]
    model = landscape.model
    for holders in (landscape.variables, model.trainable_variables, model.weights):
        if [tuple(v.shape) for v in holders] == [a.shape for a in arrays]:
            held = {id(v): a for v, a in zip(holders, arrays, strict=True)}
            return landscape.flat([held[id(v)] for v in landscape.variables])
    raise ValueError(
        f"Each point of path must hold the weights of {model.name!r}: a list of arrays as "
        f"model.get_weights() gives it, or a flat vector of {landscape.size} entries; received "
        f"arrays of shapes {[a.shape for a in arrays][:6]}."
    )


def _spans(
    landscape: DataLandscape,
    directions: Directions,
    projected: np.ndarray | None,
    span: float | tuple[float, float] | None,
) -> tuple[float, float]:
    if span is not None:
        both = np.atleast_1d(np.asarray(span, "float64"))
        if both.shape not in ((1,), (2,)) or not np.all(both > 0):
            raise ValueError(f"span must be a number above 0 or two of them, received {span!r}.")
        return float(both[0]), float(both[-1])
    least = 1.0 if directions == "random" else 0.1 * reach(landscape)
    if projected is None:
        return least, least
    far = 1.1 * np.max(np.abs(projected), axis=0)
    if directions == "random":
        far = np.maximum(far, least)
    # A path may not move along one of them at all.
    far = np.where(far > 1e-3 * far.max(), far, far.max() or least)
    return float(far[0]), float(far[1])


def _heights(losses: np.ndarray, values: np.ndarray | None = None) -> tuple[np.ndarray, str]:
    """Losses as they are drawn: by their logarithm where all of them are positive."""
    values = losses if values is None else values
    if np.nanmin(losses) > 0:
        return np.log10(np.maximum(values, 1e-30)), "log10 of the loss"
    return values, "loss"
