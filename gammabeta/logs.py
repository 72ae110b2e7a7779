"""Logs: one JSON object per line on standard error, or coloured text on a terminal. Only programs call `set_up`.

structlog does the work; this file decides the shape once, for the service, the worker and the command line.
"""

from __future__ import annotations

import logging
import sys

import structlog


def set_up(*, level: str = "info", as_json: bool | None = None) -> None:
    """Send structlog's and the standard library's records to standard error.

    `as_json=None` chooses: text when standard error is a terminal, JSON otherwise.
    """
    if as_json is None:
        as_json = not sys.stderr.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            *([] if as_json else [_inert]),
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it announces itself at every look at the schema
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _inert(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What others wrote, so that a terminal obeys none of it and no line of it looks like one of ours. JSON escapes it
    anyway, and what is no text is shown by its repr, which does."""
    return {_printable(key): _inert_value(key, value) for key, value in event.items()}


def _inert_value(key: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    return "\n".join(map(_printable, value.split("\n"))) if key in _OF_LINES else _printable(value)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


_OF_LINES = ("exception", "stack")
"""Tracebacks, which are of many. Where no person looks on, as in production, each is one text of a JSON object."""


def of_request(name: str) -> None:
    """From here on, lines that are written for this request, in its task and in those and the threads that it starts,
    have its id."""
    structlog.contextvars.bind_contextvars(request_id=name)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
