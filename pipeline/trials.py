"""Trials of a split over which processes have died: which documents are to blame?

This process has imported everything and does nothing but fork for each trial: the whole split
first, and where that dies as well, half of its rows, and half of these, down to one document.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.quiet import quiet_libraries, return_memory
from lexbeam.pipeline.supervisor import signal_name
from lexbeam.transforms import checksums
from lexbeam.transforms.died import DiedRow, DiedRows

if TYPE_CHECKING:
    from apache_beam import Pipeline

    from lexbeam.pipeline.isolation import Request
    from lexbeam.pipeline.stages import MapOfSplits
    from lexbeam.transforms.part_files import PartFolder
    from lexbeam.transforms.row_range import RowRange

MAX_DIED = 32
_SECONDS_BETWEEN_LOOKS = 0.02
_FAILED = 1


def _tell(**values: str) -> None:
    """A line for the driver."""
    print(json.dumps(values), flush=True)


def main() -> int:
    """Carry out the request on standard input."""
    # Beam and Arrow are imported with the request.
    return_memory()
    quiet_libraries(verbose=False)
    request: Request = pickle.load(sys.stdin.buffer)
    quiet_libraries(request.verbose)
    from lexbeam.models.encoder import import_backend
    from lexbeam.pipeline import stages

    stage = stages.map_stage(request.work, request.stage)
    plan = request.work.plan
    # Once, and not in every trial.
    if request.stage == "encode" and plan.encoder is not None:
        import_backend(plan.encoder, plan.config.encoder)
    if request.stage == "classify" and plan.classifier and plan.config.classifier:
        import_backend(plan.classifier, plan.config.classifier)
    assert stage.splits is not None
    try:
        for split in request.splits:
            _isolate(request, stage.splits, split)
    except JobError as error:
        _tell(error=str(error))
        return _FAILED
    return 0


def _isolate(request: Request, splits: MapOfSplits, split: int) -> None:
    files = ", ".join(source.relative for source in request.work.plan.layout.sources_of(split)[:3])
    name = f"stage {request.stage}, split {split} ({files})"
    _tell(say=f"{name}: its process died twice, so it is worked on by itself")
    with tempfile.TemporaryDirectory(prefix="lexbeam-trial-") as folder:
        trials = Trials(request, splits, split, Path(folder), name)
        found = trials.find_died()
        if found:
            request.work.died.record(request.stage, split, found)
            rows = ", ".join(str(entry.row) for entry in found)
            _tell(say=f"{name}: rejected the documents that made it die (rows {rows})")
        for target in splits.work.folders:
            checksums.commit_file(trials.scratch(target).part(split), target.part(split))
    assert splits.work.attempts is not None
    splits.work.attempts.clear(split)


@dataclass(frozen=True)
class Trials:
    """Trials of one split in forked processes, written into a folder of their own.

    Attributes:
        name: of the stage and split, for errors.
    """

    request: Request
    splits: MapOfSplits
    split: int
    folder: Path
    name: str

    def find_died(self) -> list[DiedRow]:
        """The documents without which the split survives, ascending; its parts are in `scratch`.

        Raises JobError where there are too many of them, or none that dies alone.
        """
        found: list[DiedRow] = []
        while self._dies(found) is not None:
            if len(found) == MAX_DIED:
                raise JobError(f"{self.name}: its process dies also without {MAX_DIED} documents")
            found.append(self._one_of(found))
        return sorted(found)

    def _one_of(self, found: Sequence[DiedRow]) -> DiedRow:
        """One more document that dies alone: where one half survives, it is in the other."""
        low, high = 0, self._num_rows(found)
        while high - low > 1:
            middle = (low + high) // 2
            if self._dies(found, low, middle) is None:
                low = middle
            else:
                high = middle
        cause = self._dies(found, low, high)
        if cause is None:
            reason = "its process dies, but over none of its documents alone"
            raise JobError(f"{self.name}: {reason}; too little memory?")
        message = f"the process that worked on it {cause}"
        return DiedRow(low, self.request.stage, message)

    def scratch(self, target: PartFolder) -> PartFolder:
        """Where a trial writes what belongs into a folder of the run."""
        index = self.splits.work.folders.index(target)
        return replace(target, path=str(self.folder / str(index)))

    def _source(self, found: Sequence[DiedRow], start: int, stop: int | None) -> RowRange:
        from lexbeam.transforms.row_range import RowRange

        died: DiedRows = replace(self.request.work.died, pending=tuple(found))
        # Both kinds of source have the field.
        return RowRange(replace(self.splits.work.source, died=died), start, stop)  # type: ignore[type-var]

    def _dies(
        self, found: Sequence[DiedRow], start: int = 0, stop: int | None = None
    ) -> str | None:
        """How a process dies over these rows without those found; None where it survives."""
        targets = [self.scratch(target) for target in self.splits.work.folders]
        for target in targets:
            Path(target.part(self.split)).unlink(missing_ok=True)
        work = replace(
            self.splits.work,
            source=self._source(found, start, stop),
            folders=tuple(targets),
            attempts=None,
            only=self.split,
        )

        from lexbeam.pipeline import launch

        def build(pipeline: Pipeline) -> object:
            return self.splits.build(pipeline, work)

        def run() -> None:
            launch.run_pipeline(build, (), self.request.stage)

        return self._fork(run)

    def _num_rows(self, found: Sequence[DiedRow]) -> int:
        result = self.folder / "num_rows"

        def count() -> None:
            batches = self._source(found, 0, None).batches(self.split)
            result.write_text(str(sum(batch.num_rows for batch in batches)))

        cause = self._fork(count)
        if cause is not None:
            raise JobError(f"{self.name}: the process that only read it {cause}")
        return int(result.read_text())

    def _fork(self, run: Callable[[], None]) -> str | None:
        """How a process ends in which the function runs; None where it ends well.

        Raises JobError where the function raises.
        """
        _tell()
        child = os.fork()
        if child == 0:
            code = _FAILED
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                run()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        ended = _wait(child, self.request.timeout)
        if ended is None:
            return "made no progress and was killed"
        if ended > 0:
            raise JobError(f"{self.name}: failed by itself as well, see above")
        return f"was ended by {signal_name(-ended)}" if ended else None


def _wait(child: int, timeout: float | None) -> int | None:
    """The child's exit code, negative for a signal; None where it was killed for its time."""
    began = time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if timeout is not None and time.monotonic() - began > timeout:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(_SECONDS_BETWEEN_LOOKS)


if __name__ == "__main__":
    sys.exit(main())
