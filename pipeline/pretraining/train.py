"""From shuffled shards to a trained model, in one process or in several."""

from __future__ import annotations

from dataclasses import dataclass

from lexbeam.models.pretraining.config import MASKINGS, PretrainingConfig
from lexbeam.models.pretraining.evaluation import HeldOutScore
from lexbeam.models.pretraining.objective import Corpus, MaskedLanguageModelling
from lexbeam.models.pretraining.start import (
    checkpoint_model,
    new_model,
    start_from_frequencies,
)
from lexbeam.models.pretraining.store import SequenceStore
from lexbeam.models.pretraining.subwords import SpecialTokens, read_tokenizer, special_tokens
from lexbeam.models.training.checkpoints import TrainingState
from lexbeam.models.training.dropout import set_dropout
from lexbeam.models.training.hardware import Hardware
from lexbeam.models.training.processes import Processes
from lexbeam.models.transformer.model import MaskedLanguageModel
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.training.fit import fit, training_config
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms import storage
from lexbeam.transforms.host_models import directory_on_host
from lexbeam.transforms.part_files import PartFolder, read_arrow


@dataclass(frozen=True)
class Trained:
    """A trained model and how it got there.

    Attributes:
        model: in evaluation mode.
        special: its special tokens.
        state: the end of the training.
        num_steps: that were planned.
        train_tokens, held_out_tokens: of the corpus.
        scores: over all held-out texts, by masking; empty in all processes but the first.
    """

    model: MaskedLanguageModel
    special: SpecialTokens
    state: TrainingState
    num_steps: int
    train_tokens: int
    held_out_tokens: int
    scores: dict[str, HeldOutScore]


def train(work: Workspace, processes: Processes, view: ProgressView) -> Trained:
    """Train, from the latest checkpoint where there is one.

    Raises JobError where the corpus is too small, the loss diverges or a checkpoint cannot be
    written.
    """
    pretraining = work.plan.pretraining
    assert pretraining is not None
    config = training_config(work, processes)
    hardware = Hardware.of(config, processes.local_rank)
    corpus = Corpus(
        train=_store(work.shards),
        held_out=_store(work.held_out),
        special=special_tokens(read_tokenizer(storage.local_path(work.tokenizer))),
    )
    _check_size(corpus, pretraining)
    model = _first_model(work, corpus, view).to(hardware.device)
    set_dropout(model, config.dropout)
    objective = MaskedLanguageModelling(model, corpus, pretraining, hardware, processes)
    state, num_steps = fit(work, objective, config, processes, view)
    return Trained(
        model=model,
        special=corpus.special,
        state=state,
        num_steps=num_steps,
        train_tokens=corpus.train.num_tokens,
        held_out_tokens=corpus.held_out.num_tokens,
        scores=_scores(objective) if processes.is_first else {},
    )


def _scores(objective: MaskedLanguageModelling) -> dict[str, HeldOutScore]:
    """Over all held-out texts, by masking."""
    return {
        name: objective.score(objective.held_out(whole_words=name == "word")) for name in MASKINGS
    }


def _store(folder: PartFolder) -> SequenceStore:
    return SequenceStore([read_arrow(path) for path in folder.parts()])


def _check_size(corpus: Corpus, config: PretrainingConfig) -> None:
    assert config.batch_tokens is not None
    if corpus.train.num_tokens < config.batch_tokens:
        raise JobError(
            f"the corpus is smaller than a batch: {corpus.train.num_tokens:,} tokens to learn "
            f"from, --batch_tokens {config.batch_tokens:,}. Give more documents, or a lower "
            "--batch_tokens"
        )
    if not corpus.held_out.num_tokens:
        raise JobError(
            f"no document was held out by --eval_fraction {config.eval_fraction:g}: raise it, or "
            "give more documents"
        )


def _first_model(work: Workspace, corpus: Corpus, view: ProgressView) -> MaskedLanguageModel:
    pretraining, spec = work.plan.pretraining, work.plan.encoder
    assert pretraining is not None
    if spec is None:
        size, pad = corpus.special.vocab_size, corpus.special.pad
        model, has_head = new_model(pretraining, size, pad), False
    else:
        directory = directory_on_host(spec)
        model, has_head = checkpoint_model(directory, pretraining, corpus.special)
        if not has_head:
            view.say(f"note: {spec.name} has no head for masked tokens: a new one is tied to it")
    if not has_head:
        start_from_frequencies(model, corpus.train, corpus.special)
    return model
