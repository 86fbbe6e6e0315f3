"""What is said to the libraries before they are imported: to be quiet, and to give memory back."""

from __future__ import annotations

import logging
import os
import warnings

from lexbeam.pipeline import log


def quiet_libraries(verbose: bool) -> None:
    """Errors only, unless the user asks for more; must be called before Beam is imported.

    Models come from the catalogue or from what the user names, so nothing needs telemetry.
    """
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=level)
    root = logging.getLogger()
    root.setLevel(level)
    for handler in root.handlers:
        handler.setFormatter(log.library_formatter())
        handler.addFilter(_is_no_interrupt)
    # They log what they raise as well, with all frames.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    if not verbose:
        logging.getLogger("apache_beam.runners.dataflow").setLevel(logging.CRITICAL)
    logging.getLogger("lexbeam").setLevel(logging.INFO if verbose else logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not verbose:
        warnings.simplefilter("ignore")


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    """Beam logs Ctrl-C as it logs errors, with all the frames that it came through."""
    return "KeyboardInterrupt" not in record.getMessage()


def return_memory() -> None:
    """Let Arrow take its memory from the system; must be called before Arrow is imported.

    Its own allocator keeps what blocks of changing sizes have left, so that a process seems to grow
    with the corpus. Worker processes of this host inherit the setting.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
