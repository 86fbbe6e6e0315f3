"""The English lexicon of a part-of-speech tagger: the commonest tag of a word.

Read from the file `en-lexicon.txt` of the package textblob (Brill 1992, MIT licence, with words
of the Twitter data of Gimpel et al. 2011, CC-BY). The package itself is not imported: that would
import a whole toolkit, which takes seconds.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType


def package_folder(package: str) -> Path:
    """Folder of an installed package, found without importing it.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {package!r} is not installed", name=package)
    return Path(spec.submodule_search_locations[0])


def english_tag(word: str) -> str | None:
    """Commonest Penn Treebank tag of a lower-case word; None where the lexicon lacks it.

    A word that stands only capitalised in the lexicon ("english", "usa") has that entry's tag.
    """
    return load_english_tags().get(word)


@functools.cache
def load_english_tags() -> Mapping[str, str]:
    """Tag of every lower-case word of the lexicon, about 90,000; read once per process."""
    path = package_folder("textblob") / "en" / "en-lexicon.txt"
    tags: dict[str, str] = {}
    capitalised: dict[str, str] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            word, _, tag = line.strip().partition(" ")
            if not tag or word == ";;;":
                continue
            # Some entries hold alternatives ("NN|JJ"): the first is the commonest.
            tag = tag.partition("|")[0]
            (tags if word == word.lower() else capitalised).setdefault(word.lower(), tag)
    return MappingProxyType(capitalised | tags)
