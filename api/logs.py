"""Logs on standard error: JSON lines for programs, plain lines on a terminal."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog

from api.settings import PREFIX

LEVEL = f"{PREFIX}LOG_LEVEL"


def configure() -> None:
    """Send everything that is logged to standard error, from `KGO_LOG_LEVEL` on."""
    level = os.environ.get(LEVEL, "INFO").upper()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    shown: list[Any]
    if sys.stderr.isatty():
        shown = [structlog.dev.ConsoleRenderer()]
    else:
        shown = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shown],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
