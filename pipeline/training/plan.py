"""The plan of a training, its folder, and who may work in it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from lexbeam.models.config import ConfigError, require
from lexbeam.models.encoder_spec import ModelSpec
from lexbeam.models.finetuning.config import FinetuningConfig
from lexbeam.models.pretraining.config import PretrainingConfig
from lexbeam.models.training.config import TrainingConfig
from lexbeam.models.training.hardware import resolved
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.options import JobConfig, RunSettings
from lexbeam.pipeline.plan import Plan, check_same, identity_of_text, read_plan, write_plan
from lexbeam.pipeline.prepare import check_versions, now
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.runs import RunDir
from lexbeam.pipeline.training.options import RUN_ID
from lexbeam.pipeline.versions import installed_versions
from lexbeam.transforms import splits, storage

# Options that change speed and memory, and of the results the rounding and the draw of dropout.
_SPEED_ONLY = ("device", "max_batch_tokens")


def run_of(output: str) -> RunDir:
    """Where a model's training has its files: MODEL/training."""
    return RunDir(output, RUN_ID, storage.join(output, RUN_ID))


def new_plan(
    config: JobConfig,
    layout: splits.Layout,
    spec: ModelSpec | None,
    training: TrainingConfig,
    learned: PretrainingConfig | FinetuningConfig,
) -> Plan:
    """A plan with `auto` resolved for this machine.

    `learned`: what is, which says of which command it is. Raises ConfigError for a device that is
    not there.
    """
    command = "pretrain" if isinstance(learned, PretrainingConfig) else "finetune"
    training = resolved(training)
    values = asdict(learned) | asdict(training)
    identity = identity_of_text(config) | {
        name: value for name, value in values.items() if name not in _SPEED_ONLY
    }
    # The weights say which model it is, whatever it is called and wherever it lies.
    identity |= {"command": command, "model_id": spec and spec.fingerprint}
    return Plan(
        command=command,
        created=now(),
        config=config,
        layout=layout,
        encoder=spec,
        model_source=None,
        lda_execution="local",
        identity=dict(json.loads(json.dumps(identity))),
        versions=installed_versions(),
        pretraining=learned if isinstance(learned, PretrainingConfig) else None,
        finetuning=learned if isinstance(learned, FinetuningConfig) else None,
        training=training,
    )


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
