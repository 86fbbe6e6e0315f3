"""From options to the plan of a pre-training; nothing is launched here."""

from __future__ import annotations

from lexbeam.models.config import ConfigError, require
from lexbeam.models.encoder_spec import ModelSpec, read_json
from lexbeam.models.encoder_windows import load_tokenizer
from lexbeam.models.pretraining.config import PretrainingConfig
from lexbeam.models.pretraining.subwords import check_vocabulary, special_tokens
from lexbeam.models.training.config import TrainingConfig
from lexbeam.pipeline.options import JobConfig, RunSettings
from lexbeam.pipeline.plan import Plan
from lexbeam.pipeline.prepare import planned_layout
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.training.plan import new_plan
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
    return new_plan(config, layout, _checkpoint(pretraining), training, pretraining)


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
