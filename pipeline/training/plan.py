"""The folder of a training, and who may work in it."""

from __future__ import annotations

from dataclasses import replace

from lexbeam.models.config import ConfigError, require
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.options import RunSettings
from lexbeam.pipeline.plan import Plan, check_same, read_plan, write_plan
from lexbeam.pipeline.prepare import check_versions
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.runs import RunDir
from lexbeam.pipeline.training.options import RUN_ID
from lexbeam.transforms import storage

# Options that change speed and memory, and of the results the rounding and the draw of dropout.
SPEED_ONLY = ("device", "max_batch_tokens")


def run_of(output: str) -> RunDir:
    """Where a model's training has its files: MODEL/training."""
    return RunDir(output, RUN_ID, storage.join(output, RUN_ID))


def claim(wanted: Plan, settings: RunSettings, view: ProgressView) -> tuple[RunDir, Plan]:
    """The training's folder and its plan: a new one, or the one that is there.

    Raises UsageError where the folder holds another model, or one of another training.
    """
    run = run_of(settings.output)
    if not storage.exists(run.plan):
        model = storage.join(settings.output, "model.safetensors")
        reason = f"holds a model already that lexbeam {wanted.command} did not make; choose another"
        require(not storage.exists(model), "output", settings.output, reason)
        try:
            if write_plan(run, wanted):
                return run, wanted
        except OSError as error:
            reason = f"cannot be written: {error}"
            raise ConfigError("output", settings.output, reason) from error
    found = read_plan(run)
    if found.command != wanted.command:
        raise UsageError(f"{run.plan} is of a {found.command}; choose another --output")
    check_same(run, wanted, found, "Choose another --output.")
    if not run.is_finished():
        check_versions(run, found)
        view.say(f"resuming the training in {run.path}")
    # What may differ from one call to the next: where the checkpoint lies, device and memory.
    return run, replace(found, encoder=wanted.encoder, training=wanted.training)
