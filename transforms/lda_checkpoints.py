"""Checkpoints of an LDA fit: a folder a pass, `lda/pass-0007/`, of blocks of rows under 1 MB.

Blocks come first, in any order and from any worker; `state.json` commits them. Everything is
written by put-if-absent under names that follow from the pass alone, and a pass gives the same bits
whoever makes it, so that passes may be made twice and by several at once.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lexbeam.models import lda
from lexbeam.transforms import checksums, storage
from lexbeam.transforms.part_files import json_text

Int64Array = npt.NDArray[np.int64]

_PASS = re.compile(r"^pass-(\d{4,})$")
_STATE, _TOTALS = "state.json", "totals.json"


@dataclass(frozen=True)
class LdaCheckpoints:
    """The checkpoints of one fit.

    Attributes:
        path: the folder `lda`, local or a URL.
    """

    path: str

    def folder(self, pass_number: int) -> str:
        """Of the state after a pass; passes count from 1; 0 is the state before them."""
        return storage.join(self.path, f"pass-{pass_number:04d}")

    def _file(self, pass_number: int, name: str) -> str:
        return storage.join(self.folder(pass_number), name)

    def write_block(self, pass_number: int, number: int, rows: Int64Array) -> None:
        """Write the rows of one of `lda.vocabulary_blocks`."""
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(rows, dtype="<i8"), allow_pickle=False)
        self._put(self._file(pass_number, _block_name(number)), buffer.getvalue())

    def write_totals(self, pass_number: int, totals: lda.PassTotals) -> None:
        """Write what a pass summed up beside the blocks."""
        self._put(self._file(pass_number, _TOTALS), json_text(totals._asdict()).encode())

    def commit_pass(self, before: lda.FitProgress) -> lda.FitProgress:
        """Commit the pass after `before` from its blocks and totals; returns the progress.

        Raises:
            ValueError: the pass is not all there.
        """
        path = self._file(before.completed_passes + 1, _TOTALS)
        try:
            totals = lda.PassTotals(**json.loads(storage.read_bytes(path)))
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: the pass is incomplete: {error}") from error
        progress = before.after(totals)
        self._commit(progress, asdict(before.metrics(totals)))
        return progress

    def _commit(self, progress: lda.FitProgress, metrics: dict[str, Any]) -> None:
        """Declare a pass complete; checkpoints of earlier passes are not needed any more."""
        number = progress.completed_passes
        blocks = lda.vocabulary_blocks(progress.num_terms, progress.config.num_topics)
        found = {file.path.rsplit("/", 1)[-1] for file in storage.list_tree(self.folder(number))}
        for name in map(_block_name, range(len(blocks))):
            if name not in found:
                raise ValueError(
                    f"{self._file(number, name)}: the pass is incomplete: no such file"
                )
        values = {"state": progress.to_json(), "metrics": metrics}
        self._put(self._file(number, _STATE), json_text(values).encode())
        for earlier in self._folders():
            if earlier < number:
                storage.delete_tree(self.folder(earlier), root=self.path)

    def write(self, state: lda.LdaState, metrics: lda.PassMetrics | None) -> None:
        """Write a whole state, and commit it.

        metrics: of the pass that led to it; None for a state before the first pass that is not
            that of a fit from the start.
        """
        progress = state.progress
        blocks = lda.vocabulary_blocks(progress.num_terms, progress.config.num_topics)
        for number, terms in enumerate(blocks):
            self.write_block(progress.completed_passes, number, state.topic_term_counts[terms])
        self._commit(progress, asdict(metrics) if metrics else {})

    def _put(self, path: str, data: bytes) -> None:
        storage.make_parent(path)
        checksums.put_if_absent(path, data)

    def _folders(self) -> list[int]:
        """Passes that have a folder, committed or not."""
        matches = map(_PASS.match, storage.list_folders(self.path))
        return sorted(int(match[1]) for match in matches if match)

    def latest(self) -> lda.FitProgress | None:
        """Progress of the last committed pass; raises ValueError naming a damaged file."""
        for number in reversed(self._folders()):
            if storage.exists(self._file(number, _STATE)):
                return self._progress(number)
        return None

    def _progress(self, pass_number: int) -> lda.FitProgress:
        path = self._file(pass_number, _STATE)
        try:
            values: dict[str, Any] = json.loads(storage.read_bytes(path))
            return lda.FitProgress.from_json(values["state"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a readable checkpoint: {error}") from error

    def load(self, progress: lda.FitProgress) -> lda.LdaState:
        """The state at `progress`; the start values where neither a pass nor a state was written.

        Raises:
            ValueError: a file is missing or damaged; the message names it.
        """
        config, num_terms = progress.config, progress.num_terms
        if progress.completed_passes == 0 and not storage.exists(self._file(0, _STATE)):
            return lda.LdaState.start(config, num_terms)
        counts = np.empty((num_terms, config.num_topics), np.int64)
        for number, terms in enumerate(lda.vocabulary_blocks(num_terms, config.num_topics)):
            path = self._file(progress.completed_passes, _block_name(number))
            try:
                rows = np.load(io.BytesIO(storage.read_bytes(path)), allow_pickle=False)
                if rows.shape != counts[terms].shape or rows.dtype != np.dtype("<i8"):
                    raise ValueError(f"{rows.dtype} of shape {rows.shape}")
            except (OSError, EOFError, ValueError) as error:
                raise ValueError(f"{path}: not a readable checkpoint: {error}") from error
            counts[terms] = rows
        return lda.LdaState(progress, counts)


def _block_name(number: int) -> str:
    return f"block-{number:06d}.npy"
