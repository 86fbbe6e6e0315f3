"""Fixtures of the encoder's tests: tiny random models, and the real ones where they are here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lexbeam.models import catalogue
from lexbeam.models.encoder_spec import ModelSpec, read_spec
from tests.conftest import skip_or_fail
from tests.models.tiny_models import write_tiny_model

SpecMaker = Callable[..., ModelSpec]


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of its own for hashes and converted models."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own_cache(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let lexbeam use the tests' cache, not the user's."""
    monkeypatch.setenv("LEXBEAM_CACHE", str(tiny_cache))
    return tiny_cache


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_cache: Path) -> SpecMaker:
    """`tiny_model(family, prefix="", positions=64)`: the spec of a tiny model, made once."""
    made: dict[tuple[str, str, int], ModelSpec] = {}

    def make(family: str, prefix: str = "", positions: int = 64) -> ModelSpec:
        key = (family, prefix, positions)
        if key not in made:
            directory = tmp_path_factory.mktemp(family)
            write_tiny_model(directory, family, prefix=prefix, positions=positions)
            made[key] = read_spec(family, directory, tiny_cache)
        return made[key]

    return make


@pytest.fixture
def tiny_bert(tiny_model: SpecMaker, own_cache: Path) -> ModelSpec:
    """A tiny BERT, beside a cache of its own."""
    return tiny_model("bert")


def _real_model(name: str) -> ModelSpec:
    if not catalogue.is_present(name):
        skip_or_fail(f"the model {name} is not here; `lexbeam models pull {name}` fetches it")
    return catalogue.resolve_model(name)


@pytest.fixture
def default_model() -> ModelSpec:
    """The default model, from the user's cache."""
    return _real_model("multilingual-e5-small-q4")


@pytest.fixture
def minilm() -> ModelSpec:
    """all-MiniLM-L6-v2, from the user's cache."""
    return _real_model("all-MiniLM-L6-v2")
