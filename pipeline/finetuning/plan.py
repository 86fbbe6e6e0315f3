"""From options to the plan of a fine-tuning; nothing is launched here."""

from __future__ import annotations

from lexbeam.models import catalogue
from lexbeam.models.config import EncoderConfig, require
from lexbeam.models.encoder_backend import check_encoder_config
from lexbeam.models.encoder_check import check_model_files
from lexbeam.models.encoder_spec import POOLINGS, ModelSpec
from lexbeam.models.finetuning.config import FinetuningConfig
from lexbeam.models.training.config import TrainingConfig
from lexbeam.models.transformer.checkpoints import read_config
from lexbeam.pipeline.options import JobConfig, RunSettings
from lexbeam.pipeline.plan import Plan
from lexbeam.pipeline.prepare import planned_layout
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.training.plan import new_plan
from lexbeam.transforms.host_models import resolve_model


def make_plan(
    config: JobConfig,
    finetuning: FinetuningConfig,
    training: TrainingConfig,
    settings: RunSettings,
    view: ProgressView,
) -> Plan:
    """List and cut the input, resolve every `auto`, and look at the model.

    Raises ConfigError or ModelError where the model or a device cannot be had.
    """
    layout = planned_layout(config, settings, view)
    return new_plan(config, layout, _model(finetuning, view), training, finetuning)


def _model(config: FinetuningConfig, view: ProgressView) -> ModelSpec:
    """The model to go on from; raises ConfigError where it does not fit the options."""
    entry = catalogue.find_entry(config.model_id)
    if entry is not None:
        catalogue.pull(entry.name, progress=view.say)
    spec = resolve_model(config.model_id, fetch=True)
    check_model_files(spec)
    reason = (
        f"the model {spec.name} pools by {spec.pooling!r}; only {', '.join(POOLINGS)} are known"
    )
    require(spec.pooling in POOLINGS, "model_id", config.model_id, reason)
    encoder = EncoderConfig(model_id=config.model_id, max_seq_length=config.max_seq_length)
    check_encoder_config(spec, encoder)
    num_layers = read_config(spec.directory)[1].num_layers
    reason = f"the model {spec.name} has {num_layers} layers"
    require(config.frozen_layers <= num_layers, "frozen_layers", config.frozen_layers, reason)
    return spec
