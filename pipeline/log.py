"""What the user reads on standard error: plain lines, or with `--log_format json` JSON objects.

Every object has `time` (UTC, ISO 8601), `level` (info, warning or error), `event` and `message`;
further fields depend on the event.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

FORMATS = ("text", "json")

_PLAIN = "%(levelname)s %(name)s: %(message)s"

_format = "text"


def set_format(name: str) -> None:
    """Choose one of FORMATS for this process."""
    global _format
    _format = name


def is_json() -> bool:
    """Whether lines are JSON objects."""
    return _format == "json"


def json_line(level: str, event: str, message: str, **fields: Any) -> str:
    """One object as a line, with its line feed."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    values = {"time": time, "level": level, "event": event, "message": message, **fields}
    return json.dumps(values, ensure_ascii=False) + "\n"


def write(
    level: str, event: str, message: str, *, stream: TextIO | None = None, **fields: Any
) -> None:
    """A line for the user; plain warnings and errors begin with the program's name.

    Raises BrokenPipeError where nobody reads any more.
    """
    stream = stream or sys.stderr
    if is_json():
        text = json_line(level, event, message, **fields)
    else:
        text = message + "\n" if level == "info" else f"lexbeam: {level}: {message}\n"
    stream.write(text)
    stream.flush()


def complain(message: str, code: int, **fields: Any) -> int:
    """Say what went wrong; returns the exit code."""
    write("error", "error", message, exit_code=code, **fields)
    return code


def library_formatter() -> logging.Formatter:
    """For what libraries log."""
    return _JsonFormatter() if is_json() else logging.Formatter(_PLAIN)


class _JsonFormatter(logging.Formatter):
    """Log records of libraries as JSON objects of the event `log`."""

    def format(self, record: logging.LogRecord) -> str:
        """One object, without a line feed."""
        fields = {"logger": record.name}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        level = "error" if record.levelno >= logging.ERROR else record.levelname.lower()
        return json_line(level, "log", record.getMessage(), **fields).rstrip("\n")
