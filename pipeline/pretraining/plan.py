"""From options to the plan of a pre-training, and its folder; nothing is launched here."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from lexbeam.models.config import ConfigError, require
from lexbeam.models.encoder_spec import ModelSpec, read_json
from lexbeam.models.encoder_windows import load_tokenizer
from lexbeam.models.pretraining.config import SequenceConfig, TrainingConfig
from lexbeam.models.pretraining.hardware import resolved
from lexbeam.models.pretraining.subwords import check_vocabulary, special_tokens
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.options import JobConfig, RunSettings
from lexbeam.pipeline.plan import (
    Plan,
    check_same,
    identity_of_text,
    read_plan,
    write_plan,
)
from lexbeam.pipeline.prepare import check_versions, now, planned_layout
from lexbeam.pipeline.pretraining.options import RUN_ID
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.runs import RunDir
from lexbeam.pipeline.versions import installed_versions
from lexbeam.transforms import storage
from lexbeam.transforms.host_models import resolve_model

# Options that change speed and memory, and of the results the rounding and the draw of dropout.
_SPEED_ONLY = ("device", "max_batch_tokens")


def run_of(output: str) -> RunDir:
    """Where a model's training has its files: MODEL/training."""
    return RunDir(output, RUN_ID, storage.join(output, RUN_ID))


def make_plan(
    config: JobConfig,
    sequences: SequenceConfig,
    training: TrainingConfig,
    settings: RunSettings,
    view: ProgressView,
) -> Plan:
    """List and cut the input, resolve every `auto`, and look at the checkpoint.

    Raises ConfigError or ModelError where a checkpoint or a device cannot be had.
    """
    layout = planned_layout(config, settings, view)
    spec = _checkpoint(sequences)
    training = resolved(training)
    return Plan(
        command="pretrain",
        created=now(),
        config=config,
        layout=layout,
        encoder=spec,
        model_source=None,
        lda_execution="local",
        identity=_identity(config, sequences, training, spec),
        versions=installed_versions(),
        sequences=sequences,
        training=training,
    )


def _checkpoint(config: SequenceConfig) -> ModelSpec | None:
    """The checkpoint to go on from; raises ConfigError where its files do not fit together."""
    if config.model_id is None:
        return None
    spec = resolve_model(config.model_id, fetch=True)
    reason = f"{config.model_id} was made for {spec.max_positions} tokens"
    length = config.max_seq_length
    require(length <= spec.max_positions, "max_seq_length", length, reason)
    num_rows = read_json(spec.directory, "config.json").get("vocab_size")
    if not isinstance(num_rows, int):
        raise ConfigError("model_id", config.model_id, "its config.json has no vocab_size")
    special = special_tokens(load_tokenizer(spec), config.model_id)
    check_vocabulary(special, num_rows, config.model_id)
    return spec


def _identity(
    config: JobConfig,
    sequences: SequenceConfig,
    training: TrainingConfig,
    spec: ModelSpec | None,
) -> dict[str, Any]:
    values = asdict(sequences) | asdict(training)
    identity = identity_of_text(config) | {
        name: value for name, value in values.items() if name not in _SPEED_ONLY
    }
    # The weights say which model it is, whatever it is called and wherever it lies.
    identity |= {"command": "pretrain", "model_id": spec and spec.fingerprint}
    return dict(json.loads(json.dumps(identity)))


def claim(wanted: Plan, settings: RunSettings, view: ProgressView) -> tuple[RunDir, Plan]:
    """The training's folder and its plan: a new one, or the one that is there.

    Raises UsageError where the folder holds another model, or one of another training.
    """
    run = run_of(settings.output)
    if not storage.exists(run.plan):
        model = storage.join(settings.output, "model.safetensors")
        reason = "holds a model already that was not made by lexbeam pretrain; choose another"
        require(not storage.exists(model), "output", settings.output, reason)
        try:
            if write_plan(run, wanted):
                return run, wanted
        except OSError as error:
            reason = f"cannot be written: {error}"
            raise ConfigError("output", settings.output, reason) from error
    found = read_plan(run)
    if found.command != "pretrain":
        raise UsageError(f"{run.plan} is of a {found.command}; choose another --output")
    check_same(run, wanted, found, "Choose another --output.")
    if not run.is_finished():
        check_versions(run, found)
        view.say(f"resuming the training in {run.path}")
    # What may differ from one call to the next: where the checkpoint lies, device and memory.
    return run, replace(found, encoder=wanted.encoder, training=wanted.training)
