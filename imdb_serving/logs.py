"""The log of servers: one line an event on standard error, as text or as JSON, with the same fields.

An event's fields are given as `extra`. What a review says is never among them. Worker processes log as their server
does: it leaves them word in the environment.
"""

from __future__ import annotations

import logging
import os
import sys
import time

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

FORMS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
VARIABLE = "IMDB_SERVING_LOG"


class TextFormatter(logging.Formatter):
    """Time, level, process, message, `name=value` a field, and the traceback of what was not foreseen, on one line."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        stamp = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"
        fields = {name: value for name, value in vars(record).items() if name not in RESERVED_ATTRS}
        words = [stamp, record.levelname.lower(), f"[{record.process}]", record.getMessage()]
        words += [f"{name}={value}" for name, value in fields.items()]
        if record.exc_info:
            words.append(self.formatException(record.exc_info))
        return " ".join(words).replace("\n", " | ")


def set_up(form: str, level: str) -> None:
    """Have this process and its workers log in a form, from a level on."""
    os.environ[VARIABLE] = f"{form}:{level}"
    set_up_as_told()


def set_up_as_told() -> None:
    """Log as the environment says; without a word there, leave everything as it is."""
    form, _, level = os.environ.get(VARIABLE, "").partition(":")
    if form not in FORMS or level not in LEVELS:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        TextFormatter()
        if form == "text"
        else JsonFormatter(
            "%(asctime)s %(levelname)s %(process)d %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    log = logging.getLogger("imdb_serving")
    log.handlers[:], log.propagate = [handler], False
    log.setLevel(level.upper())
