"""Masked-LM training side by side on the same model, texts and cores: tokens a second.

    python benchmarks/train.py --input corpus.jsonl [--input more.jsonl] [--limit 400]
        [--truncate] [--preset small] [--max_seq_length 512] [--batch_tokens 4096] [--steps 8]
        [--runs 3] [--parts mixed,each,parity]

Documents are JSON lines with `text` and maybe `title`; of each input the first `--limit` are taken.
All train the same BERT of the preset's sizes, from the same weights, on sequences of the same
vocabulary, with masks of 15 % of the tokens and AdamW, in float32. Rates count real tokens.

- packed: lexbeam's training step: texts end to end, scores at masked places alone.
- padded: the same Transformer and the same scores, but texts in random order in rectangles as wide
  as their longest.
- trainer: transformers' Trainer with DataCollatorForLanguageModeling, as its examples have it.
- mixed: all inputs together; each: one after the other, since lengths differ.
- --truncate: of each document its first sequence alone, as many scripts have it; else all of them.
- parity: the loss of one padded and one packed step from the same weights and masks.

Each trains `--steps` steps in turn, `--runs` times; medians, and ratios to the plain Trainer.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import memory
import numpy as np
import pyarrow as pa
import tokenizers
import torch

from lexbeam.models.pretraining import objective
from lexbeam.models.pretraining.config import PRESETS, PretrainingConfig, with_defaults
from lexbeam.models.pretraining.masking import mask_tokens
from lexbeam.models.pretraining.sequences import Document, SequenceMaker
from lexbeam.models.pretraining.start import new_model
from lexbeam.models.pretraining.store import SequenceStore
from lexbeam.models.pretraining.subwords import SpecialTokens, special_tokens, train_tokenizer
from lexbeam.models.training.checkpoints import Checkpoints
from lexbeam.models.training.config import TrainingConfig
from lexbeam.models.training.dropout import set_dropout
from lexbeam.models.training.hardware import Hardware
from lexbeam.models.training.random import generator
from lexbeam.models.training.trainer import Trainer, make_optimizer
from lexbeam.models.transformer.checkpoints import FAMILIES, write_masked_language_model
from lexbeam.models.transformer.layouts import Packed, Padded

WAYS = ("packed", "padded", "trainer")
PARTS = ("mixed", "each", "parity")
PROBABILITY = 0.15
FAR = 1_000_000  # steps of a training that is never ended: its learning rate hardly changes


@dataclass(frozen=True)
class Corpus:
    """Sequences of some inputs."""

    name: str
    table: pa.Table
    special: SpecialTokens
    sequences: PretrainingConfig

    @property
    def store(self) -> SequenceStore:
        """As the trainer reads them."""
        return SequenceStore([self.table])

    def ids(self) -> list[list[int]]:
        """Token ids of each sequence."""
        return [list(row) for row in self.table["input_ids"].to_pylist()]


def corpus_of(
    name: str, texts: Sequence[str], options: argparse.Namespace
) -> tuple[Corpus, tokenizers.Tokenizer]:
    """Train a vocabulary on the texts, and cut them into sequences."""
    vocab_size = PRESETS[options.preset].vocab_size
    tokenizer = train_tokenizer(lambda: texts, "wordpiece", vocab_size)
    special = special_tokens(tokenizer)
    maker = SequenceMaker(tokenizer, special, options.max_seq_length, 1, 1e-9, 0)
    nothing = np.empty(0, np.int32)
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    # All are masked by tokens here, so that words do not matter.
    documents = [
        Document(text, digest, "other", nothing, nothing)
        for text, digest in zip(texts, hashes, strict=True)
    ]
    if options.truncate:
        batches = [maker.sequences([document])[0].slice(0, 1) for document in documents]
    else:
        batches = [maker.sequences(documents)[0]]
    table = pa.Table.from_batches(batches).combine_chunks()
    sequences = PretrainingConfig(
        preset=options.preset, max_seq_length=options.max_seq_length, masking="token",
        batch_tokens=options.batch_tokens,
    )  # fmt: skip
    return Corpus(name, table, special, sequences), tokenizer


def training_config(
    corpus: Corpus, options: argparse.Namespace
) -> tuple[TrainingConfig, PretrainingConfig]:
    """The same for all."""
    given = TrainingConfig(
        max_batch_tokens=options.batch_tokens, dropout=0.0, max_steps=FAR, device="cpu",
        dtype="float32",
    )  # fmt: skip
    return with_defaults(given, corpus.sequences)


class PackedWay:
    """lexbeam's own training step."""

    def __init__(self, corpus: Corpus, options: argparse.Namespace, folder: Path) -> None:
        model = new_model(corpus.sequences, corpus.special.vocab_size, corpus.special.pad)
        set_dropout(model, 0.0)
        training, masks = training_config(corpus, options)
        hardware = Hardware.of(training)
        learned = objective.Corpus(corpus.store, corpus.store, corpus.special)
        modelling = objective.MaskedLanguageModelling(model, learned, masks, hardware)
        self._trainer = Trainer(modelling, training, Checkpoints(folder))
        self._done = 0

    def steps(self, number: int) -> int:
        """Train some steps; returns their tokens."""
        first, self._done = self._done, self._done + number
        steps = range(first + 1, self._done + 1)
        return sum(self._trainer.step(step)[1] for step in steps)


class PaddedWay:
    """The same model and scores in rectangles of random texts."""

    def __init__(self, corpus: Corpus, options: argparse.Namespace, folder: Path) -> None:
        self._special = corpus.special
        self._store = corpus.store
        self._size = texts_a_step(corpus, options)
        self._model = new_model(corpus.sequences, corpus.special.vocab_size, corpus.special.pad)
        set_dropout(self._model, 0.0)
        self._model.train()
        self._optimizer = make_optimizer(self._model, training_config(corpus, options)[0])
        self._random = generator(0, 9)

    def steps(self, number: int) -> int:
        """Train some steps; returns their tokens."""
        tokens = 0
        for _ in range(number):
            chosen = self._random.choice(len(self._store.lengths), self._size, replace=False)
            lengths = self._store.lengths[chosen]
            ids, starts = self._store.read(chosen)
            masked = mask_tokens(
                ids, starts, self._special, PROBABILITY, self._random, whole_words=False
            )
            loss = padded_loss(self._model, masked.ids, lengths, masked.places, masked.labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            tokens += int(lengths.sum())
        return tokens


def padded_loss(
    model: torch.nn.Module,
    ids: np.ndarray,
    lengths: np.ndarray,
    places: np.ndarray,
    labels: np.ndarray,
) -> torch.Tensor:
    """Mean cross-entropy at the places of texts that lie end to end, computed in a rectangle."""
    mask = torch.arange(int(lengths.max()))[None] < torch.from_numpy(lengths)[:, None]
    rectangle = torch.zeros(mask.shape, dtype=torch.int64)
    rectangle[mask] = torch.from_numpy(ids)
    in_rectangle = torch.nonzero(mask.flatten()).flatten()[torch.from_numpy(places)]
    scores = model(rectangle, Padded(mask), in_rectangle)
    return torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels))


class TrainerWay:
    """transformers' Trainer on BertForMaskedLM with its own collator, as its examples have it."""

    def __init__(self, corpus: Corpus, options: argparse.Namespace, folder: Path) -> None:
        import transformers

        model = new_model(corpus.sequences, corpus.special.vocab_size, corpus.special.pad)
        write_masked_language_model(model, folder, FAMILIES["bert"])
        self._model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
        for module in self._model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        self._rows = [{"input_ids": ids} for ids in corpus.ids()]
        self._size = texts_a_step(corpus, options)
        self._tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(options.tokenizers[corpus.name]),
            pad_token="[PAD]", mask_token="[MASK]", cls_token="[CLS]", sep_token="[SEP]",
            unk_token="[UNK]",
        )  # fmt: skip
        self._collator = transformers.DataCollatorForLanguageModeling(
            self._tokenizer, mlm_probability=PROBABILITY
        )
        self._folder = folder
        self._tokens = 0

    def steps(self, number: int) -> int:
        """Train some steps; returns their tokens."""
        import transformers

        arguments = transformers.TrainingArguments(
            output_dir=str(self._folder), max_steps=number, report_to=[], save_strategy="no",
            per_device_train_batch_size=self._size, learning_rate=1e-3, use_cpu=True,
            logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        self._tokens = 0
        transformers.Trainer(
            self._model, arguments, data_collator=self._collate, train_dataset=self._rows
        ).train()
        return self._tokens

    def _collate(self, rows: list[dict[str, list[int]]]) -> object:
        self._tokens += sum(len(row["input_ids"]) for row in rows)
        return self._collator(rows)


def texts_a_step(corpus: Corpus, options: argparse.Namespace) -> int:
    """So many random texts have as many tokens as a packed step."""
    return max(1, round(options.batch_tokens / corpus.store.lengths.mean()))


MAKERS: dict[str, Callable[..., object]] = {
    "packed": PackedWay,
    "padded": PaddedWay,
    "trainer": TrainerWay,
}


def rates(corpus: Corpus, options: argparse.Namespace) -> dict[str, float]:
    """Median tokens a second of each way; they take turns."""
    with tempfile.TemporaryDirectory() as folder:
        ways = {}
        for name in WAYS:
            own = Path(folder, name)
            own.mkdir()
            ways[name] = MAKERS[name](corpus, options, own)
        found: dict[str, list[float]] = {name: [] for name in WAYS}
        for way in ways.values():
            way.steps(1)
        for _ in range(options.runs):
            for name, way in ways.items():
                began = time.perf_counter()
                tokens = way.steps(options.steps)
                found[name].append(tokens / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in found.items()}


def show_rates(corpus: Corpus, options: argparse.Namespace) -> None:
    """A table of an input."""
    lengths = corpus.store.lengths
    size = texts_a_step(corpus, options)
    random = generator(0, 8)
    widest = [
        lengths[random.choice(len(lengths), size, replace=False)].max() * size for _ in range(200)
    ]
    print(
        f"\n{corpus.name}: {len(lengths):,} sequences, {lengths.sum():,} tokens, "
        f"{lengths.mean():.0f} a sequence; padded batches of {size} are "
        f"{np.mean(widest) / (size * lengths.mean()):.2f} times as large"
    )
    found = rates(corpus, options)
    for name, rate in found.items():
        print(
            f"  {name:<8} {rate:>7,.0f} tokens/s  {rate / found['trainer']:.2f} x trainer  "
            f"{rate / found['padded']:.2f} x padded"
        )


def show_parity(corpus: Corpus, options: argparse.Namespace) -> None:
    """One loss, computed packed and padded."""
    model = new_model(corpus.sequences, corpus.special.vocab_size, corpus.special.pad).eval()
    store = corpus.store
    chosen = np.arange(min(16, len(store.lengths)))
    ids, starts = store.read(chosen)
    masked = mask_tokens(ids, starts, corpus.special, PROBABILITY, generator(0), whole_words=False)
    lengths = store.lengths[chosen]
    with torch.no_grad():
        padded = padded_loss(model, masked.ids, lengths, masked.places, masked.labels)
        layout = Packed.of_lengths(lengths.tolist())
        scores = model(torch.from_numpy(masked.ids), layout, torch.from_numpy(masked.places))
        packed = torch.nn.functional.cross_entropy(scores, torch.from_numpy(masked.labels))
    print(f"\nparity: loss packed {packed:.6f}, padded {padded:.6f}")


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, action="append", required=True)
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="small")
    parser.add_argument("--max_seq_length", type=int, default=512)
    parser.add_argument("--truncate", action="store_true")
    parser.add_argument("--batch_tokens", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--parts", default=",".join(PARTS))
    options = parser.parse_args()
    parts = options.parts.split(",")
    texts = {path.stem: memory.contents_of(path, options.limit) for path in options.input}
    every = [text for each in texts.values() for text in each]
    inputs = {"mixed": every} if "mixed" in parts else {}
    inputs |= texts if "each" in parts else {}
    print(
        f"preset {options.preset}, up to {options.max_seq_length} tokens a sequence, about "
        f"{options.batch_tokens:,} a step, {torch.get_num_threads()} threads; median of "
        f"{options.runs} runs of {options.steps} steps"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, found in inputs.items():
            corpus, tokenizer = corpus_of(name, found, options)
            path = Path(folder, f"{name}.json")
            tokenizer.save(str(path))
            options.tokenizers = {name: path}
            show_rates(corpus, options)
        if "parity" in parts:
            show_parity(corpus_of("mixed", every, options)[0], options)


if __name__ == "__main__":
    main()
