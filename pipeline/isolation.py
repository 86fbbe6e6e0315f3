"""A split over which processes have died is worked on by itself, until the documents are found.

The driver starts one process for that, see `lexbeam.pipeline.trials`, and passes on what it says.
A document that makes its process die alone is recorded and left out from then on; the other ones
come out.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass

from lexbeam.pipeline import supervised
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.stages import Stage
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms import progress, threads


@dataclass(frozen=True)
class Request:
    """What the driver asks for.

    Attributes:
        work: the run.
        stage: the stage's name.
        splits: the splits to work on.
        timeout: seconds that one trial may take; None: any number.
        verbose: whether libraries log.
    """

    work: Workspace
    stage: str
    splits: tuple[int, ...]
    timeout: float | None
    verbose: bool


def isolate_suspects(
    work: Workspace, stage: Stage, timeout: float | None, view: ProgressView, *, verbose: bool
) -> None:
    """Finish the splits of a stage over which processes have died; see the module.

    Raises JobError where no documents can be found that are to blame.
    """
    suspects = stage.splits.work.suspects() if stage.splits else []
    if not suspects:
        return
    request = Request(work, stage.name, tuple(suspects), timeout, verbose)
    command = [sys.executable, "-P", "-m", "lexbeam.pipeline.trials"]
    # It forks, and a process with threads is not forked safely: BLAS would start its own at once.
    environment = os.environ | {threads.WORKERS_PER_HOST: "1", "OPENBLAS_NUM_THREADS": "1"}
    environment.pop(progress.PROGRESS_FILE, None)
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(pickle.dumps(request))
        process.stdin.close()
        for line in process.stdout:
            supervised.sign_of_life()
            said = json.loads(line)
            if "error" in said:
                raise JobError(said["error"])
            if "say" in said:
                view.say(said["say"])
    if process.returncode:
        raise JobError(f"looking for the documents over which stage {stage.name} died failed")
