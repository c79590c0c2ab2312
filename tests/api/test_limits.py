"""Probes that would take more than they may end with a reason, and the service goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.server import DIGITS, ENDLESS, assert_whole, serving

pytestmark = pytest.mark.backend_free


def test_a_probe_that_takes_too_much_memory_ends_with_that_reason(tmp_path: Path) -> None:
    # Importing the framework alone takes more than this.
    with serving(tmp_path / "data", KGO_PROBE_MEMORY_MB="256") as server:
        path = server.ask(DIGITS)
        job = server.ended(path)
        assert job["status"] == "failed"
        assert job["status_reason"]["code"] == "out_of_memory"
        assert "256 MiB" in job["status_reason"]["detail"]
        assert job["usage"]["peak_memory_bytes"] > 256 * 2**20
        assert_whole(server.events(path))


def test_a_probe_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    # Cold start, imports and compiling take longer than this, and there is no grace for them.
    with serving(tmp_path / "data", KGO_PROBE_GRACE_SECONDS="0") as server:
        path = server.ask({**ENDLESS, "max_seconds": 5})
        job = server.ended(path)
        assert job["status"] == "timed_out"
        assert job["status_reason"]["code"] == "budget_exhausted_no_result"
        assert "5 s" in job["status_reason"]["detail"]
        assert 5 <= job["usage"]["wall_seconds"] < 8
        assert_whole(server.events(path))


def test_a_wall_clock_limit_still_gives_an_answer(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        job = server.ended(server.ask({**ENDLESS, "max_seconds": 8}))
        assert job["status"] == "succeeded"
        assert job["result"]["recommended"]["code"]
        assert job["result"]["cost"]["seconds"] < 16


def test_a_setting_that_is_none_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from api.cli import _settings
    from recommender import RequestError

    monkeypatch.setenv("KGO_SLOTS", "many")
    with pytest.raises(RequestError, match="KGO_SLOTS: .*received 'many'"):
        _settings(tmp_path)


@pytest.mark.parametrize("name", ["KGO_POLL_SECONDS", "KGO_MAX_QUEUED"])
def test_limits_come_from_the_environment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from api.settings import Settings

    monkeypatch.setenv(name, "3")
    settings = Settings(data_dir=tmp_path)
    assert getattr(settings, name.removeprefix("KGO_").lower()) == 3
    assert settings.to_environment()[name] in ("3", "3.0")
