"""Fixed texts, Chinese and English, by which number formats are chosen and calibrated.

They are lexbeam's own and never the user's corpus, so that a model is the same model for
every corpus.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

_FILE = Path(__file__).with_name("calibration.txt")


@functools.cache
def calibration_texts() -> tuple[str, ...]:
    """The texts, from a line to a dozen sentences each; English and Chinese alternate."""
    return tuple(_FILE.read_text(encoding="utf-8").splitlines())


@functools.cache
def calibration_fingerprint() -> str:
    """Hex sha256 of the file."""
    return hashlib.sha256(_FILE.read_bytes()).hexdigest()
