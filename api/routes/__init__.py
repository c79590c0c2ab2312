"""The routes, one module per resource: parse, call one function, return.

What they depend on is asynchronous though it waits for nothing: FastAPI would send it to a thread.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from api.caller import Caller
from api.jobs import Jobs
from api.library import Library
from api.once import Once, once
from api.pagination import Page, page
from api.settings import Settings
from api.store import Store
from api.stream import Streams
from api.trace import traceparent


async def settings(request: Request) -> Settings:
    """The service's settings."""
    found: Settings = request.app.state.settings
    return found


async def store(request: Request) -> Store:
    """The ledger and the folder of files."""
    found: Store = request.app.state.store
    return found


async def streams(request: Request) -> Streams:
    """The open streams of this process."""
    found: Streams = request.app.state.streams
    return found


async def caller(request: Request) -> Caller:
    """Who asks; `api.access` has found out before any route is reached."""
    found: Caller = request.state.caller
    return found


async def jobs(request: Request) -> Jobs:
    """The caller's jobs."""
    context = traceparent(request.headers)
    return Jobs(request.app.state.store, request.state.caller, traceparent=context)


async def library(request: Request) -> Library:
    """What callers of the caller's tenant have uploaded."""
    return Library(request.app.state.store, request.state.caller)


TheSettings = Annotated[Settings, Depends(settings)]
TheStore = Annotated[Store, Depends(store)]
TheStreams = Annotated[Streams, Depends(streams)]
TheCaller = Annotated[Caller, Depends(caller)]
TheOnce = Annotated[Once, Depends(once)]
ThePage = Annotated[Page, Depends(page)]
TheJobs = Annotated[Jobs, Depends(jobs)]
TheLibrary = Annotated[Library, Depends(library)]
