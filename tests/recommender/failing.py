"""An optimizer that fails in a chosen way, in this process or in a child that probes.

    python -m tests.recommender.failing MESSAGES FOLDER

The child is `recommender.executors.trusted_child`, with the optimizer that GRADOPT_TEST_FAILS names
("method way") failing.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from recommender import settings

VARIABLE = "GRADOPT_TEST_FAILS"
original = settings.optimizer_class


def fail(way: str) -> None:
    if way == "raises":
        raise ValueError("cannot take this model\nand more")
    if way == "allocates":
        raise MemoryError
    if way == "exhausts":
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")
    if way == "sleeps":
        time.sleep(1000)
    if way == "dies":
        os.kill(os.getpid(), signal.SIGKILL)


def failing_class(method: str, way: str) -> Any:
    """In place of `settings.optimizer_class`: one method's class fails in every step."""

    def found(name: str) -> Any:
        kind = original(name)
        if name != method:
            return kind

        class Failing(kind):
            def update(self, *arguments: Any, **keywords: Any) -> Any:
                fail(way)
                return super().update(*arguments, **keywords)

        Failing.__name__ = kind.__name__
        return Failing

    return found


def main() -> None:
    from recommender.executors import trusted_child

    settings.optimizer_class = failing_class(*os.environ[VARIABLE].split())
    trusted_child.main()


if __name__ == "__main__":
    main()
