"""How often somebody may do something: token buckets in this process's memory."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from api.errors import ApiError
from api.settings import Settings

# Buckets that are full again are forgotten when there are so many.
MOST_BUCKETS = 10_000


class Rate:
    """Each who has a bucket of `burst` tokens, which fills at `per_second`.

    Args:
        name: As the headers call it.
        per_second: Tokens a second.
        burst: Tokens of a full bucket.
    """

    def __init__(self, name: str, per_second: float, burst: int) -> None:
        self._name = name
        self._per_second = per_second
        self._burst = burst
        self._buckets: dict[str, tuple[float, float]] = {}
        self._policy = f'"{name}";q={burst};w={math.ceil(burst / per_second)}'

    def left(self, who: str, now: float | None = None) -> float:
        """Tokens that somebody has."""
        now = time.monotonic() if now is None else now
        tokens, since = self._buckets.get(who, (float(self._burst), now))
        return min(float(self._burst), tokens + (now - since) * self._per_second)

    def take(self, who: str) -> Mapping[str, str]:
        """Take one of somebody's tokens.

        Args:
            who: A key or an address.

        Returns:
            Headers that tell what is left.

        Raises:
            ApiError: There is none; its headers tell when there will be.
        """
        now = time.monotonic()
        tokens = self.left(who, now) - 1
        if tokens < 0:
            wait = str(math.ceil(-tokens / self._per_second))
            raise ApiError(
                "rate_limited",
                f"{self._burst} {self._name} at once and {self._per_second * 60:g} a minute are "
                f"allowed. Ask again in {wait} s.",
                headers={**self._headers(0, wait), "Retry-After": wait},
            )
        self._buckets[who] = (tokens, now)
        if len(self._buckets) > MOST_BUCKETS:
            self._forget(now)
        return self._headers(int(tokens), str(math.ceil((self._burst - tokens) / self._per_second)))

    def _headers(self, left: int, seconds: str) -> dict[str, str]:
        return {
            "RateLimit-Policy": self._policy,
            "RateLimit": f'"{self._name}";r={left};t={seconds}',
        }

    def _forget(self, now: float) -> None:
        self._buckets = {
            who: bucket
            for who, bucket in self._buckets.items()
            if self.left(who, now) < self._burst
        }


class Rates:
    """The rates of the service.

    Args:
        settings: The service's.

    Attributes:
        requests: Advice and reading, per key.
        writes: What changes something, per key.
        guesses: Wrong keys, per address.
    """

    def __init__(self, settings: Settings) -> None:
        self.requests = Rate("requests", settings.requests_per_second, settings.requests_burst)
        self.writes = Rate("writes", settings.writes_per_minute / 60, settings.writes_per_minute)
        self.guesses = Rate(
            "guesses", settings.guesses_per_minute / 60, settings.guesses_per_minute
        )
