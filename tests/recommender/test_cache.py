"""Compiled probe programs are found again, and the caller's own settings stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import pytest

from recommender import recommend
from recommender.cache import compile_cache, folder
from tests.recommender.problems import data, model
from tests.recommender.test_recommend import timeless

jax_only = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="no other backend keeps compiled programs"
)
SETTINGS = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")


def settings() -> list[Any]:
    import jax

    return [getattr(jax.config, name) for name in SETTINGS]


@pytest.fixture
def uncached() -> Iterator[None]:
    """Without the cache that the tests themselves may run under."""
    import jax

    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@jax_only
@pytest.mark.usefixtures("uncached")
def test_a_second_request_compiles_nothing_and_answers_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADOPT_CACHE", str(tmp_path / "kept"))
    before = settings()

    def ask() -> Any:
        return recommend(
            model(batch_norm=True), *data(), epochs=250, loss="mse", progress=False
        ).to_dict()

    first = ask()
    programs = sorted(f.name for f in (tmp_path / "kept").glob("*-cache"))
    # Training by rules that move each coordinate alone, by others, and validation.
    assert len(programs) == 3
    again = ask()
    assert sorted(f.name for f in (tmp_path / "kept").glob("*-cache")) == programs
    assert timeless(again) == timeless(first)
    assert settings() == before


@jax_only
@pytest.mark.usefixtures("uncached")
def test_a_cache_of_the_caller_s_own_stays_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jax

    monkeypatch.setenv("GRADOPT_CACHE", str(tmp_path / "ours"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    with compile_cache():
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "theirs")
    assert not (tmp_path / "ours").exists()


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"GRADOPT_CACHE": "off"}, None),
        ({"GRADOPT_CACHE": "/elsewhere", "XDG_CACHE_HOME": "/x"}, Path("/elsewhere")),
        ({"XDG_CACHE_HOME": "/x"}, Path("/x/gradopt/compiled")),
        ({}, Path.home() / ".cache/gradopt/compiled"),
    ],
)
def test_the_environment_names_the_folder(
    environment: dict[str, str], expected: Path | None
) -> None:
    assert folder(environment) == expected
