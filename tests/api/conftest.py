"""One server for the tests that leave it as it is, and pages of one that has no worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from api.settings import Settings
from tests.api.browsing import Opened, pages
from tests.api.server import Server, serving
from tests.api.web import Web, web


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("service") / "data", KGO_SLOTS="2") as running:
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """The application without a worker; what a test takes from its queue it keeps."""
    with web(Settings(data_dir=tmp_path_factory.mktemp("web"), lease_seconds=3600)) as running:
        yield running


@pytest.fixture
def opened(browser: Any, running: Web) -> Iterator[Opened]:
    """Opens pages of that application."""
    with pages(browser, str(running.http.base_url)) as open_:
        yield open_
