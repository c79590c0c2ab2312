"""The web server, which answers everybody it has let in before it ends."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

# From being let in until a request is there; a caller on a full machine takes that long at most.
LINGER_SECONDS = 0.5


class Graceful(uvicorn.Server):
    """Lets nobody in once it is told to end, and hears those that it has let in.

    uvicorn itself closes a connection at once whose request has not arrived yet. Whoever comes
    later waits at the port, which the supervisor keeps open, for the next process.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End in order."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(LINGER_SECONDS)
        await super().shutdown(sockets)
