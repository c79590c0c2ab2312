"""The web process with an empty route beside its own: `python -m benchmarks.parts.with_empty`."""

from __future__ import annotations

import uvicorn

from api.app import create_app
from api.patience import protocol
from api.settings import Settings


def main() -> None:
    """Serve on a free port of loopback, with the settings of the environment."""
    settings = Settings()
    app = create_app(settings)

    @app.post("/empty")
    async def empty() -> dict[str, bool]:
        return {"ok": True}

    uvicorn.run(app, port=0, http=protocol(settings), access_log=False)


if __name__ == "__main__":
    main()
