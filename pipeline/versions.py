"""Versions of Python and of the packages that decide what comes out."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

_PACKAGES = (
    "lexbeam", "apache-beam", "pyarrow", "numpy", "numba", "jieba", "stopwordsiso",
    "textblob", "PyStemmer", "tokenizers", "transformers", "torch", "openvino", "nncf",
)  # fmt: skip


def installed_versions() -> dict[str, str]:
    """Versions by name; a package that is not installed is left out."""
    found = {"python": platform.python_version(), "platform": sys.platform}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
