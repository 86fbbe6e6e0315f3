"""Pairs of texts as what a model learns: each first text finds its second among those of the step.

Loss: cross-entropy of cosines over a temperature, both ways (van den Oord et al. 2018; Radford et
al. 2021). The texts of a step are compared all at once however they fit the memory: they are
encoded without gradients first, then again batch by batch with the gradient of their vectors (Gao
et al. 2021, GradCache).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional

from lexbeam.models.finetuning.config import NUM_EVALUATIONS, FinetuningConfig
from lexbeam.models.finetuning.examples import (
    Batch,
    BoolArray,
    Int32Array,
    Int64Array,
    Sides,
    TokenLists,
)
from lexbeam.models.finetuning.forward import (
    batches_of,
    quiet_frozen,
    sorted_batches,
    to_device,
)
from lexbeam.models.training.hardware import Hardware
from lexbeam.models.training.processes import ALONE, Processes
from lexbeam.models.training.random import torch_seed
from lexbeam.models.transformer.classifier import first_tokens, mean_tokens
from lexbeam.models.transformer.model import Encoder

_DROPOUT = 4  # stream of random numbers
# Held-out pairs of the evaluations on the way; the last one takes all.
_ON_THE_WAY = 256
_RANKED_AT_A_TIME = 1024


@dataclass(frozen=True)
class PairedTexts:
    """What is learned from.

    Attributes:
        first, second: tokens of both texts of each pair.
        same: (n,) int64; pairs of one number have the same second text.
        held_out: (n,) whether a pair is for evaluation alone.
    """

    first: TokenLists
    second: TokenLists
    same: Int64Array
    held_out: BoolArray

    @classmethod
    def of(cls, table: pa.Table, held_out: BoolArray) -> PairedTexts:
        """From a table as `examples.SCHEMA` says."""
        first, second = TokenLists(table["input_ids"]), TokenLists(table["second_ids"])
        seen: dict[bytes, int] = {}
        every = range(table.num_rows)
        same = [seen.setdefault(second.span(row).tobytes(), len(seen)) for row in every]
        return cls(first, second, np.array(same, np.int64), held_out)

    def texts(self, rows: Int64Array) -> list[Int32Array]:
        """First texts, then second ones."""
        return self.first.read(rows) + self.second.read(rows)


class Contrastive:
    """Bringing together the vectors of pairs; an `Objective`.

    Args:
        model: the encoder, on the hardware's device.
        pairs: what is learned from.
        config: how, `batch_size` among it.
        pooling: `mean` or `cls`.
        hardware: what the model is on.
        processes: that train together.
    """

    num_evaluations = NUM_EVALUATIONS
    headline = "accuracy"

    def __init__(
        self,
        model: Encoder,
        pairs: PairedTexts,
        config: FinetuningConfig,
        pooling: str,
        hardware: Hardware,
        processes: Processes = ALONE,
    ) -> None:
        self.model = model
        self._pairs = pairs
        self._config = config
        self._pool = first_tokens if pooling == "cls" else mean_tokens
        self._hardware = hardware
        self._processes = processes
        self._sides = Sides(pairs.held_out, config)
        self.steps_per_epoch = self._sides.steps_per_epoch
        tokens = (pairs.first.lengths + pairs.second.lengths)[self._sides.train].sum()
        self.tokens_per_step = int(tokens) // self.steps_per_epoch

    def backward(self, step: int) -> tuple[torch.Tensor, int]:
        """All pairs of the step against each other; the processes share the batches."""
        quiet_frozen(self.model)
        rows = self._sides.step(step)
        texts = self._pairs.texts(rows)
        batches = batches_of(texts, self._hardware)
        mine = range(self._processes.rank, len(batches), self._processes.size)
        if len(batches) == 1 and self._processes.size == 1:
            vectors = self._vectors(batches[0], step, 0)
            loss = self._loss(vectors, rows)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach(), sum(map(len, texts))
        size = self.model.config.hidden_size
        vectors = torch.zeros((len(texts), size), device=self._hardware.device)
        with torch.no_grad():
            for index in mine:
                vectors[batches[index].owners] = self._vectors(batches[index], step, index)
        self._processes.add_up([vectors])
        vectors.requires_grad_()
        loss = self._loss(vectors, rows)
        (gradient,) = torch.autograd.grad(loss, [vectors])
        for index in mine:
            again = self._vectors(batches[index], step, index)
            again.backward(gradient[batches[index].owners])  # type: ignore[no-untyped-call]
        # Every process has the whole loss; they add up their shares.
        return loss.detach() / self._processes.size, sum(map(len, texts))

    def _vectors(self, batch: Batch, step: int, index: int) -> torch.Tensor:
        """Unit vectors of a batch; with the same dropout each time they are asked for."""
        torch.manual_seed(torch_seed(self._config.seed, _DROPOUT, step, index))
        return self._encode(batch)

    def _encode(self, batch: Batch) -> torch.Tensor:
        ids, layout = to_device(batch, self._hardware)
        with self._hardware.autocast():
            hidden = self.model(ids, layout)
        return functional.normalize(self._pool(hidden.float(), layout), dim=-1)

    def _loss(self, vectors: torch.Tensor, rows: Int64Array) -> torch.Tensor:
        """Mean over both ways; a second text that equals a pair's own is no wrong answer."""
        first, second = vectors[: len(rows)], vectors[len(rows) :]
        scores = first @ second.T / self._config.temperature
        same = torch.from_numpy(self._pairs.same[rows]).to(scores.device)
        twins = (same[:, None] == same[None]) & ~torch.eye(
            len(rows), dtype=torch.bool, device=scores.device
        )
        scores = scores.masked_fill(twins, float("-inf"))
        own = torch.arange(len(rows), device=scores.device)
        return (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2

    def evaluate(self) -> Mapping[str, float]:
        """On some of the held-out pairs, the same ones each time."""
        return self.score(self._sides.held_out[:_ON_THE_WAY])

    def held_out(self) -> Mapping[str, float]:
        """On all held-out pairs."""
        return self.score(self._sides.held_out)

    def score(self, rows: Int64Array) -> dict[str, float]:
        """How well first texts of pairs find their second ones among them all.

        Returns `loss`, `accuracy` (the nearest is its own, or equal to it), `mrr` (mean
        reciprocal rank) and `num_pairs`.
        """
        vectors = self._all_vectors(self._pairs.texts(rows))
        first, second = vectors[: len(rows)], vectors[len(rows) :]
        loss, ranks = 0.0, []
        for start in range(0, len(rows), _RANKED_AT_A_TIME):
            part = slice(start, start + _RANKED_AT_A_TIME)
            cosines = first[part] @ second.T
            own = cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))]
            twins = self._pairs.same[rows][None] == self._pairs.same[rows][part, None]
            ranks.append(1 + ((cosines > own[:, None]) & ~twins).sum(axis=1))
            scaled = cosines.astype(np.float64) / self._config.temperature
            loss += float((np.logaddexp.reduce(scaled, axis=1)).sum())
            loss -= float(own.sum(dtype=np.float64)) / self._config.temperature
        rank = np.concatenate(ranks)
        return {
            "loss": loss / len(rows),
            "accuracy": float((rank == 1).mean()),
            "mrr": float((1.0 / rank).mean()),
            "num_pairs": len(rows),
        }

    @torch.inference_mode()
    def _all_vectors(self, texts: Sequence[Int32Array]) -> np.ndarray:
        self.model.eval()
        found = np.empty((len(texts), self.model.config.hidden_size), np.float32)
        for batch in sorted_batches(texts, self._hardware):
            found[batch.owners] = self._encode(batch).cpu().numpy()
        return found
