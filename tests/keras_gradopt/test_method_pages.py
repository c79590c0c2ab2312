"""The pages of docs/methods say what the docstrings say, and show a path."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from PIL import Image

from keras_gradopt import catalogue, registry
from tests.keras_gradopt import method_pages
from tests.keras_gradopt.method_pages import FOLDER, SURFACES

pytestmark = pytest.mark.backend_free

ENTRIES = catalogue.methods()
PAGES = method_pages.pages()
RENEW = "run: python -m tests.keras_gradopt.method_pages"

every_method = pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.class_name)


@every_method
def test_a_page_says_what_the_docstring_says(entry: catalogue.Entry) -> None:
    file = FOLDER / f"{entry.name}.md"
    assert file.exists(), RENEW
    assert file.read_text("utf-8") == PAGES[file.name], RENEW


@every_method
def test_a_page_has_its_picture(entry: catalogue.Entry) -> None:
    file = FOLDER / f"{entry.name}.png"
    assert file.exists(), RENEW
    assert 5_000 < file.stat().st_size < 40_000
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        assert picture.size == (800, 360)


def test_the_index_lists_every_method() -> None:
    text = (FOLDER / "README.md").read_text("utf-8")
    assert text == PAGES["README.md"], RENEW
    missing = [e.name for e in ENTRIES if f"| [{e.class_name}]({e.name}.md) |" not in text]
    assert not missing


def test_no_page_is_left_of_a_method_that_is_gone() -> None:
    names = {e.name for e in ENTRIES} | {"README"}
    assert {file.stem for file in FOLDER.iterdir()} == names, RENEW


@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: s.name)
def test_a_surface_is_as_low_as_it_says(surface: method_pages.Surface) -> None:
    left, right, bottom, top = surface.corners
    x, y = np.meshgrid(np.linspace(left, right, 2001), np.linspace(bottom, top, 2001))
    # Between the points of the grid the surface rises by curvature times half a distance squared.
    assert surface.loss(x, y).min() == pytest.approx(surface.lowest, abs=1e-4)
    squares = sum(r**2 for r in surface.residuals(x, y)) / 2
    np.testing.assert_allclose(squares + surface.lowest, surface.loss(x, y), rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="paths are computed on JAX")
@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: s.name)
def test_a_path_is_the_one_that_steps_by_hand_take(surface: method_pages.Surface) -> None:
    cls = next(iter(registry.optimizer_classes().values()))
    path = method_pages.best_path(cls, surface, steps=5)
    optimizer, w = cls.example(), keras.Variable(np.array([surface.start], "float32"))
    optimizer.learning_rate = path.learning_rate
    points = [np.array(surface.start)]
    for _ in range(5):
        (x, y), small = points[-1], 1e-5
        slopes = [
            (surface.loss(x + dx, y + dy) - surface.loss(x - dx, y - dy)) / (2 * small)
            for dx, dy in ((small, 0), (0, small))
        ]
        optimizer.apply([keras.ops.array([slopes], "float32")], [w])
        points.append(np.array(keras.ops.convert_to_numpy(w.value), "float64")[0])
    # Five steps of float32 at weights of order one.
    np.testing.assert_allclose(path.points, points, atol=1e-5)


# --- the text ---


def test_equations_stand_on_lines_of_their_own() -> None:
    text = method_pages.paragraph("One thing. Another $x$:\n$$a\n  = b$$\n$$c$$ where $c$ is.")
    assert text == "One thing.\nAnother $x$:\n\n$$\na = b\n$$\n\n$$\nc\n$$\n\nwhere $c$ is."


def test_bars_do_not_end_a_cell() -> None:
    assert method_pages.in_cell(r"a | b, $\|g\| < |x|$") == (
        r"a \| b, $\Vert g\Vert  < \vert x\vert $"
    )
