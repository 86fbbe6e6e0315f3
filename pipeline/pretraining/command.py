"""`lexbeam pretrain`: its options, and who does what.

Only light modules are imported before the options have been checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lexbeam.models.pretraining.config import with_defaults
from lexbeam.pipeline.pretraining import options
from lexbeam.pipeline.training.command import MakePlan, TrainingCommand

if TYPE_CHECKING:
    from lexbeam.pipeline.options import RunSettings
    from lexbeam.pipeline.plan import Plan
    from lexbeam.pipeline.progress_view import ProgressView
    from lexbeam.pipeline.training.job import TrainingJob


def _configure(given: dict[str, Any]) -> MakePlan:
    config = options.job_config(given)
    training, pretraining = with_defaults(
        options.training_config(given), options.pretraining_config(given)
    )

    def plan(settings: RunSettings, view: ProgressView) -> Plan:
        from lexbeam.pipeline.pretraining.plan import make_plan

        return make_plan(config, pretraining, training, settings, view)

    return plan


def _job() -> TrainingJob[Any]:
    from lexbeam.pipeline.pretraining.job import JOB

    return JOB


PRETRAIN = TrainingCommand("pretrain", options.pretrain_parser, _configure, _job)
