"""What a pre-training does: the corpus becomes sequences, these are learned from."""

from __future__ import annotations

from collections import Counter
from typing import Any

from lexbeam.models.encoder_windows import load_tokenizer
from lexbeam.models.pretraining.sequences import FATES
from lexbeam.pipeline import publish, stages
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.job import check_rejected, run_stage
from lexbeam.pipeline.options import RunSettings
from lexbeam.pipeline.pretraining import result
from lexbeam.pipeline.pretraining.train import train
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.session import Session
from lexbeam.pipeline.training.job import TrainingJob
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms.part_files import part_statistics
from lexbeam.transforms.sequences import TOKENIZER_CONFIG, put_tokenizer


def prepare_corpus(
    work: Workspace, settings: RunSettings, view: ProgressView, session: Session
) -> dict[str, Any]:
    """Everything up to the shuffled shards; what became of the documents, for the record.

    Raises TooManyRejectedError, and JobError where documents in are not those that are learned
    from, held out, without tokens and rejected.
    """

    def run(stage: stages.Stage, total: int | None = None) -> None:
        run_stage(work, stage, settings, view, session, total)

    run(stages.tokenize(work))
    run(stages.drop_duplicates(work))
    num_documents = publish.documents_in(work)
    check_rejected(work, num_documents, publish.rejected_by_reason(work), settings)
    if work.plan.encoder is None:
        run(stages.train_tokenizer(work), num_documents)
    else:
        _copy_tokenizer(work)
    run(stages.make_sequences(work))
    run(stages.shuffle(work))
    run(stages.collect_errors(work), num_documents)
    return _documents(work, num_documents, settings)


def _documents(work: Workspace, num_documents: int, settings: RunSettings) -> dict[str, Any]:
    reasons = publish.error_counts(work)
    # With those over which the sequences' stage has died.
    check_rejected(work, num_documents, reasons, settings)
    fates: Counter[str] = Counter(dict.fromkeys(FATES, 0))
    for statistics in publish.of_each(part_statistics, work.sequences.parts()):
        fates.update(statistics)
    if num_documents != fates.total() + sum(reasons.values()):
        raise JobError(
            f"{num_documents} documents were read, but {fates.total()} kept and "
            f"{sum(reasons.values())} rejected: nothing is trained"
        )
    return {"documents": num_documents, "rejected": reasons, **fates}


def _copy_tokenizer(work: Workspace) -> None:
    """Put the checkpoint's tokenizer where the workers look for it."""
    spec = work.plan.encoder
    assert spec is not None
    config = spec.directory / TOKENIZER_CONFIG
    text = config.read_text(encoding="utf-8") if config.is_file() else "{}\n"
    put_tokenizer(work.tokenizer, load_tokenizer(spec).to_str(), text)


JOB = TrainingJob(prepare_corpus, train, result.publish)
