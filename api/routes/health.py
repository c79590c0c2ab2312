"""Whether the service is well."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import false
from sqlalchemy.exc import SQLAlchemyError

from api.routes import TheJobs, TheStore
from api.schemas.health import Alive, Ready, Version
from api.store import LEAST_FREE, Store, workers
from recommender.knowledge import published

router = APIRouter(tags=["health"])


@router.get("/livez", response_model=Alive, summary="Whether the process answers")
async def livez() -> dict[str, Any]:
    """It does."""
    return {"status": "alive"}


@router.get(
    "/readyz",
    response_model=Ready,
    summary="Whether requests can be served",
    responses={503: {"model": Ready, "description": "They cannot."}},
)
def readyz(request: Request, response: Response, store: TheStore, jobs: TheJobs) -> dict[str, Any]:
    """The ledger takes writes, the catalogue is there, the disk has room; the rest is told."""
    checks = {
        "ledger": _ledger(store),
        "catalog": "ok" if published()["optimizers"] else "empty",
        "disk": "ok" if store.free_share() > LEAST_FREE else "nearly full",
    }
    ready = all(found == "ok" for found in checks.values())
    # No worker is no reason to send requests elsewhere: jobs wait for one.
    if checks["ledger"] == "ok":
        checks["workers"] = str(jobs.workers_alive())
    # Nor is a missing sandbox: only probes of uploads need one.
    checks["sandbox"] = request.app.state.sandbox.state()
    if not ready:
        response.status_code = 503
    return {"status": "ready" if ready else "not_ready", "checks": checks}


@router.get("/v1/version", response_model=Version, summary="Which version answers")
async def get_version() -> dict[str, Any]:
    """The service's, and those that its advice depends on."""
    versions = published()["versions"]
    return {"service": versions["keras_gradopt"], "versions": versions}


def _ledger(store: Store) -> str:
    try:
        with store.write() as connection:
            # Where a file can only be read, SQLite refuses the write, not the transaction.
            connection.execute(workers.delete().where(false()))
    except SQLAlchemyError as error:
        return type(error).__name__
    return "ok"
