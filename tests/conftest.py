"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.quick_beam import keep_answers

# No test asserts on time; the first example of a test may compile a kernel.
settings.register_profile("lexbeam", deadline=None)
settings.load_profile("lexbeam")

ROOT = Path(__file__).resolve().parent.parent


def skip_or_fail(reason: str) -> None:
    """Skip on a user's machine; fail where everything must be there (`CI=true`)."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_corpora() -> Path:
    """The folder of real corpora beside the checkout (`LEXBEAM_CORPORA` names another)."""
    folder = Path(os.environ.get("LEXBEAM_CORPORA", ROOT.parent / "shared" / "corpora"))
    if not folder.is_dir():
        skip_or_fail(f"no real corpora: {folder} is not a folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _quick_beam() -> Iterator[None]:
    """Beam answers its own repeated questions once."""
    with pytest.MonkeyPatch.context() as patch:
        keep_answers(patch)
        yield
