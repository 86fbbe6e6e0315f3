"""Masked language modelling as what a model learns: masks, losses and scores of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from lexbeam.models.pretraining.config import PretrainingConfig
from lexbeam.models.pretraining.evaluation import (
    HeldOutScore,
    MaskedBatch,
    cut_masked,
    evaluate,
    held_out_batches,
    losses,
)
from lexbeam.models.pretraining.masking import mask_tokens
from lexbeam.models.pretraining.store import SequenceStore
from lexbeam.models.pretraining.subwords import SpecialTokens
from lexbeam.models.training.batches import BatchPlan
from lexbeam.models.training.hardware import Hardware
from lexbeam.models.training.processes import ALONE, Processes
from lexbeam.models.training.random import generator, torch_seed
from lexbeam.models.transformer.model import MaskedLanguageModel

_MASKS, _DROPOUT = 3, 4  # streams of random numbers
# Held-out tokens of the evaluations on the way; the last one takes all.
_TOKENS_ON_THE_WAY = 65_536


@dataclass(frozen=True)
class Corpus:
    """What is learned from.

    Attributes:
        train, held_out: sequences.
        special: the special tokens.
    """

    train: SequenceStore
    held_out: SequenceStore
    special: SpecialTokens


class MaskedLanguageModelling:
    """Foretelling masked tokens; an `Objective`.

    Args:
        model: on the hardware's device.
        corpus: what is learned from.
        config: how it is masked, `batch_tokens` among it.
        hardware: what the model is on.
        processes: that train together.
    """

    num_evaluations = 20
    headline = "accuracy"

    def __init__(
        self,
        model: MaskedLanguageModel,
        corpus: Corpus,
        config: PretrainingConfig,
        hardware: Hardware,
        processes: Processes = ALONE,
    ) -> None:
        assert config.batch_tokens is not None
        self.model = model
        self._corpus = corpus
        self._config = config
        self._hardware = hardware
        self._processes = processes
        self._plan = BatchPlan(corpus.train.lengths, config.batch_tokens, config.seed)
        self.steps_per_epoch = self._plan.steps_per_epoch
        self.tokens_per_step = corpus.train.num_tokens // self.steps_per_epoch
        self._on_the_way: list[MaskedBatch] | None = None

    def backward(self, step: int) -> tuple[torch.Tensor, int]:
        """The step's sequences, masked anew, in batches that the processes share."""
        batches = self._micro_batches(step)
        num_masked = max(1, sum(len(batch.tokens.places) for batch in batches))
        loss = torch.zeros((), device=self._hardware.device)
        for index in range(self._processes.rank, len(batches), self._processes.size):
            # Of the batch's place alone, whichever process works on it.
            torch.manual_seed(torch_seed(self._config.seed, _DROPOUT, step, index))
            with self._hardware.autocast():
                batch_loss, _ = losses(self.model, batches[index], self._hardware)
            (batch_loss / num_masked).backward()  # type: ignore[no-untyped-call]
            loss += batch_loss.detach() / num_masked
        return loss, sum(sum(batch.lengths) for batch in batches)

    def evaluate(self) -> Mapping[str, float]:
        """On some of the held-out sequences, the same ones each time."""
        if self._on_the_way is None:
            self._on_the_way = self.held_out(most_tokens=_TOKENS_ON_THE_WAY)
        return asdict(self.score(self._on_the_way))

    def held_out(
        self, *, whole_words: bool | None = None, most_tokens: int | None = None
    ) -> list[MaskedBatch]:
        """The held-out sequences, masked; as the training masks where that is not given."""
        return held_out_batches(
            self._corpus.held_out,
            self._corpus.special,
            self._config.mask_probability,
            self._config.seed,
            self._hardware.max_batch_tokens,
            whole_words=self._whole_words if whole_words is None else whole_words,
            most_tokens=most_tokens,
        )

    def score(self, batches: Sequence[MaskedBatch]) -> HeldOutScore:
        """Score the model as it is on masked batches."""
        with self._hardware.autocast():
            return evaluate(self.model, batches, self._hardware)

    @property
    def _whole_words(self) -> bool:
        return self._config.masking == "word"

    def _micro_batches(self, step: int) -> list[MaskedBatch]:
        """The step's sequences in batches that fit the memory, masked."""
        corpus, config = self._corpus, self._config
        numbers = self._plan.examples(step)
        ids, starts = corpus.train.read(numbers)
        # Of the whole step, so that masks do not depend on how it is cut.
        masked = mask_tokens(
            ids, starts, corpus.special, config.mask_probability,
            generator(config.seed, _MASKS, step), whole_words=self._whole_words,
        )  # fmt: skip
        most = self._hardware.max_batch_tokens
        return cut_masked(masked, corpus.train.lengths[numbers], most)
