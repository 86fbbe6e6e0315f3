"""Keeps the libraries' chatter off the terminal."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries(verbose: bool) -> None:
    """Errors only, unless the user asks for more; must be called before Beam is imported.

    Models come from the catalogue or from what the user names, so nothing needs telemetry.
    """
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=level)
    logging.getLogger().setLevel(level)
    logging.getLogger("lexbeam").setLevel(logging.INFO if verbose else logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not verbose:
        warnings.simplefilter("ignore")
