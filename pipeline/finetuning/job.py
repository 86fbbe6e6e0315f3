"""What a fine-tuning does: documents become examples, these are learned from."""

from __future__ import annotations

from typing import Any

from lexbeam.pipeline import publish, stages
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.finetuning import result
from lexbeam.pipeline.finetuning.train import train
from lexbeam.pipeline.job import check_rejected, run_stage
from lexbeam.pipeline.options import RunSettings
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.session import Session
from lexbeam.pipeline.training.job import TrainingJob
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms import storage
from lexbeam.transforms.examples import gather_examples
from lexbeam.transforms.part_files import read_arrow


def prepare(
    work: Workspace, settings: RunSettings, view: ProgressView, session: Session
) -> dict[str, Any]:
    """Everything up to the examples; what became of the documents, for the record.

    Raises TooManyRejectedError, and JobError where documents in are not examples and rejected.
    """

    def run(stage: stages.Stage, total: int | None = None) -> None:
        run_stage(work, stage, settings, view, session, total)

    run(stages.tokenize(work))
    run(stages.drop_duplicates(work))
    num_documents = publish.documents_in(work)
    check_rejected(work, num_documents, publish.rejected_by_reason(work), settings)
    run(stages.make_examples(work), num_documents)
    run(stages.collect_errors(work), num_documents)
    reasons = publish.error_counts(work)
    # With those over which the examples' stage has died.
    check_rejected(work, num_documents, reasons, settings)
    if not storage.exists(work.gathered):
        gather_examples(work.examples, work.gathered)
    num_examples = read_arrow(work.gathered).num_rows
    if num_documents != num_examples + sum(reasons.values()):
        raise JobError(
            f"{num_documents} documents were read, but {num_examples} kept and "
            f"{sum(reasons.values())} rejected: nothing is trained"
        )
    return {"documents": num_documents, "rejected": reasons, "examples": num_examples}


JOB = TrainingJob(prepare, train, result.publish)
