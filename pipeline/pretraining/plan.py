"""From options to the plan of a pre-training; nothing is launched here."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from lexbeam.models.config import ConfigError, require
from lexbeam.models.encoder_spec import ModelSpec, read_json
from lexbeam.models.encoder_windows import load_tokenizer
from lexbeam.models.pretraining.config import PretrainingConfig
from lexbeam.models.pretraining.subwords import check_vocabulary, special_tokens
from lexbeam.models.training.config import TrainingConfig
from lexbeam.models.training.hardware import resolved
from lexbeam.pipeline.options import JobConfig, RunSettings
from lexbeam.pipeline.plan import Plan, identity_of_text
from lexbeam.pipeline.prepare import now, planned_layout
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.training.plan import SPEED_ONLY
from lexbeam.pipeline.versions import installed_versions
from lexbeam.transforms.host_models import resolve_model


def make_plan(
    config: JobConfig,
    pretraining: PretrainingConfig,
    training: TrainingConfig,
    settings: RunSettings,
    view: ProgressView,
) -> Plan:
    """List and cut the input, resolve every `auto`, and look at the checkpoint.

    Raises ConfigError or ModelError where a checkpoint or a device cannot be had.
    """
    layout = planned_layout(config, settings, view)
    spec = _checkpoint(pretraining)
    training = resolved(training)
    return Plan(
        command="pretrain",
        created=now(),
        config=config,
        layout=layout,
        encoder=spec,
        model_source=None,
        lda_execution="local",
        identity=_identity(config, pretraining, training, spec),
        versions=installed_versions(),
        pretraining=pretraining,
        training=training,
    )


def _checkpoint(config: PretrainingConfig) -> ModelSpec | None:
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
    pretraining: PretrainingConfig,
    training: TrainingConfig,
    spec: ModelSpec | None,
) -> dict[str, Any]:
    values = asdict(pretraining) | asdict(training)
    identity = identity_of_text(config) | {
        name: value for name, value in values.items() if name not in SPEED_ONLY
    }
    # The weights say which model it is, whatever it is called and wherever it lies.
    identity |= {"command": "pretrain", "model_id": spec and spec.fingerprint}
    return dict(json.loads(json.dumps(identity)))
