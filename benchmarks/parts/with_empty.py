"""The service with an empty route beside its own: for uvicorn, as a factory."""

from __future__ import annotations

from fastapi import FastAPI

from api.app import create_app
from api.settings import Settings


def app() -> FastAPI:
    """The application of the settings in the environment, and `POST /empty`."""
    made = create_app(Settings())

    @made.post("/empty")
    async def empty() -> dict[str, bool]:
        return {"ok": True}

    return made
