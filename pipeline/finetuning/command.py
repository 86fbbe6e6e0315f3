"""`lexbeam finetune`: its options, and who does what.

Only light modules are imported before the options have been checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lexbeam.models.finetuning.config import with_defaults
from lexbeam.pipeline.finetuning import options
from lexbeam.pipeline.training.command import MakePlan, TrainingCommand

if TYPE_CHECKING:
    from lexbeam.pipeline.options import RunSettings
    from lexbeam.pipeline.plan import Plan
    from lexbeam.pipeline.progress_view import ProgressView
    from lexbeam.pipeline.training.job import TrainingJob


def _configure(given: dict[str, Any]) -> MakePlan:
    finetuning = options.finetuning_config(given)
    config = options.job_config(given)
    training, finetuning = with_defaults(options.training_config(given), finetuning)

    def plan(settings: RunSettings, view: ProgressView) -> Plan:
        from lexbeam.pipeline.finetuning.plan import make_plan

        return make_plan(config, finetuning, training, settings, view)

    return plan


def _job() -> TrainingJob[Any]:
    from lexbeam.pipeline.finetuning.job import JOB

    return JOB


FINETUNE = TrainingCommand("finetune", options.finetune_parser, _configure, _job)
