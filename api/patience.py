"""How long the service waits for a request, and how much it holds meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.settings import Settings

# What a request's scope has once its body came too slowly.
LATE = "late"


def protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """The protocol for uvicorn's `http=` with the limits of the settings.

    Args:
        settings: The service's.
    """

    class Limited(Patient):
        limits = settings

    return Limited


class Patient(HttpToolsProtocol):
    """HTTP with limits of time and size for what a client has begun to send.

    Heads: where nothing is being answered, the next one must be whole within `head_seconds` of the
    connection's opening, or of the first byte after the last answer; else the connection is closed.
    What is left of a body that was answered early is part of that time.

    Bodies: each stretch of `body_seconds` must bring `body_bytes_per_second`, or the end; else
    `LATE` is put into the scope of the request, and whoever reads the body is woken up. A whole
    stretch is asked for, not each moment, so a line may stall; and what came fast before is no
    excuse. A stretch at whose end the service itself does not read is not judged, and once an
    answer has begun, it is left alone.

    Size: the parser has no limit of its own for heads and for the trailers of bodies. No more than
    `max_head_bytes` may come without a whole head or a part of a body among them.

    One timer is there while something is waited for; a request that comes in one piece needs none.

    Attributes:
        limits: The settings that hold these.
    """

    limits: ClassVar[Settings]
    _due: asyncio.TimerHandle | None = None
    _held = 0
    _missing = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest, where that was not all."""
        self._held += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if self._held > self.limits.max_head_bytes:
            self._refuse(idle)
        elif self._due is not None:
            return
        elif idle:
            self._wait_for_head()
        elif self.cycle.more_body and not self.cycle.response_started:
            self._wait_for_body()

    def on_headers_complete(self) -> None:
        """The head has come."""
        self._held = 0
        self._wait_no_longer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body has come."""
        self._held = 0
        self._missing -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body has come."""
        self._wait_no_longer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Nobody reads on; a next head may come."""
        self._wait_no_longer()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """There is nobody to wait for."""
        self._wait_no_longer()
        super().connection_lost(exc)

    def _refuse(self, idle: bool) -> None:
        if idle:
            self.send_400_response(f"The head has over {self.limits.max_head_bytes} bytes.")
        else:
            self.transport.close()  # in the middle of an answer, no other can be given

    def _wait_for_head(self) -> None:
        self._wait(self.limits.head_seconds, self.transport.close)

    def _wait_for_body(self) -> None:
        seconds = self.limits.body_seconds
        self._missing = seconds * self.limits.body_bytes_per_second
        self._wait(seconds, self._look_at_body)

    def _look_at_body(self) -> None:
        self._due = None
        if self.cycle.response_started:
            return
        if self._missing > 0 and not self.flow.read_paused:
            self.cycle.scope[LATE] = True  # type: ignore[literal-required]
            self.cycle.message_event.set()
        else:
            self._wait_for_body()

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._due = self.loop.call_later(seconds, then)

    def _wait_no_longer(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
