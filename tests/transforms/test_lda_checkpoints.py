"""Checkpoints of an LDA fit: small files, and a damaged one is named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from lexbeam.models import lda
from lexbeam.models.config import LdaConfig
from lexbeam.transforms.lda_checkpoints import LdaCheckpoints

CONFIG = LdaConfig(num_topics=7, passes=4)
NUM_TERMS = 40_000  # two blocks and a bit
TOTALS = lda.PassTotals(log_likelihood=-(2**20) * 30, num_tokens=10)


@pytest.fixture
def checkpoints(tmp_path: Path) -> LdaCheckpoints:
    return LdaCheckpoints(str(tmp_path / "run" / "lda"))


def state_after(passes: int) -> lda.LdaState:
    """Any state."""
    counts = np.arange(NUM_TERMS * 7, dtype=np.int64).reshape(NUM_TERMS, 7) + passes
    progress = lda.FitProgress(config=CONFIG, num_terms=NUM_TERMS, completed_passes=passes)
    return lda.LdaState(progress, counts)


def write(checkpoints: LdaCheckpoints, passes: int) -> lda.LdaState:
    state = state_after(passes)
    checkpoints.write(state, lda.PassMetrics(passes, 3, -3.0, None))
    return state


def test_a_state_comes_back_from_small_files(checkpoints: LdaCheckpoints) -> None:
    assert checkpoints.latest() is None
    state = write(checkpoints, 2)
    files = sorted(Path(checkpoints.folder(2)).glob("[!.]*"))
    assert [file.name for file in files] == [
        "block-000000.npy",
        "block-000001.npy",
        "block-000002.npy",
        "state.json",
    ]
    assert all(file.stat().st_size < 1_000_000 for file in files)
    progress = checkpoints.latest()
    assert progress == state.progress
    assert np.array_equal(checkpoints.load(progress).topic_term_counts, state.topic_term_counts)


def test_the_latest_pass_counts_and_earlier_ones_go(checkpoints: LdaCheckpoints) -> None:
    for passes in (1, 2, 3):
        write(checkpoints, passes)
    assert [folder.name for folder in Path(checkpoints.path).iterdir()] == ["pass-0003"]
    # A later pass that was not committed is none.
    checkpoints.write_block(4, 0, np.zeros((3, 7), np.int64))
    progress = checkpoints.latest()
    assert progress is not None
    assert progress.completed_passes == 3


def test_the_first_pass_starts_from_the_seed(checkpoints: LdaCheckpoints) -> None:
    start = lda.LdaState.start(CONFIG, NUM_TERMS)
    loaded = checkpoints.load(start.progress)
    assert np.array_equal(loaded.topic_term_counts, start.topic_term_counts)


@pytest.mark.parametrize("lacking", ["block-000001.npy", "totals.json"])
def test_a_pass_that_is_not_all_there_is_not_committed(
    checkpoints: LdaCheckpoints, lacking: str
) -> None:
    before = state_after(1)
    for number, terms in enumerate(lda.vocabulary_blocks(NUM_TERMS, 7)):
        checkpoints.write_block(2, number, before.topic_term_counts[terms])
    checkpoints.write_totals(2, TOTALS)
    path = Path(checkpoints.folder(2), lacking)
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(ValueError, match=rf"pass-0002/{lacking}: the pass is incomplete"):
        checkpoints.commit_pass(before.progress)
    assert checkpoints.latest() is None
    path.write_bytes(kept)
    after = checkpoints.commit_pass(before.progress)
    assert (after.completed_passes, after.is_finished) == (2, False)
    assert checkpoints.latest() == after


def _as_npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("block-000001.npy", None),
        ("block-000001.npy", b""),
        ("block-000001.npy", b"no array"),
        ("block-000001.npy", _as_npy(np.zeros((3, 7), np.int64))),
        ("block-000001.npy", _as_npy(np.zeros((17839, 7)))),
        ("state.json", b"{"),
        ("state.json", b"{}"),
        ("state.json", b'{"state": {"num_terms": 3}}'),
    ],
)
def test_a_damaged_file_is_named(
    checkpoints: LdaCheckpoints, name: str, data: bytes | None
) -> None:
    progress = write(checkpoints, 2).progress
    path = Path(checkpoints.folder(2), name)
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"pass-0002/{name}: not a readable checkpoint"):
        checkpoints.load(checkpoints.latest() or progress)


def test_a_pass_may_be_written_twice(checkpoints: LdaCheckpoints) -> None:
    write(checkpoints, 2)
    before = {path: path.read_bytes() for path in Path(checkpoints.folder(2)).glob("[!.]*")}
    write(checkpoints, 2)
    assert before == {path: path.read_bytes() for path in Path(checkpoints.folder(2)).glob("[!.]*")}
