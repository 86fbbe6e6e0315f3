"""From tokens parts to what a model is trained on: a vocabulary, sequences, shuffled shards.

Each split's sequences are written sorted by shard; a shard is then read from all of them, sorted by
its random keys and written as an Arrow file, which trainers map into memory. No sequence goes
through the runner's shuffle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from lexbeam.models.pretraining.config import PretrainingConfig
from lexbeam.models.pretraining.sequences import SCHEMA, Document, SequenceMaker
from lexbeam.models.pretraining.subwords import (
    read_tokenizer,
    special_tokens,
    tokenizer_json,
    train_tokenizer,
)
from lexbeam.transforms import blocks, host_cache, progress, storage
from lexbeam.transforms.map_blocks import MapBlocksDoFn
from lexbeam.transforms.part_files import (
    BlockSource,
    PartFolder,
    open_part,
    write_arrow,
)
from lexbeam.transforms.parts import ListIndices

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
# A vocabulary hardly changes beyond: of larger corpora it is trained on a part of every split.
MOST_CHARACTERS = 200_000_000
_ROWS_PER_BLOCK = 4096
_TRAINED = pa.schema([("input_ids", SCHEMA.field("input_ids").type), SCHEMA.field("word_starts")])


def put_tokenizer(folder: str, tokenizer: str, config: str) -> None:
    """Publish a tokenizer's files, unless another process was first."""
    storage.put_if_absent(storage.join(folder, TOKENIZER_CONFIG), config.encode())
    storage.put_if_absent(storage.join(folder, TOKENIZER), tokenizer.encode())


class TrainTokenizerDoFn(beam.DoFn):  # type: ignore[misc]
    """Trains the vocabulary on the corpus, in one worker."""

    def __init__(
        self, source: BlockSource, num_splits: int, folder: str, config: PretrainingConfig
    ) -> None:
        self._source = source
        self._num_splits = num_splits
        self._folder = folder
        self._config = config
        self._is_counted = False

    def process(self, _: None) -> None:
        tokenizer = train_tokenizer(
            self._texts, self._config.vocabulary, self._config.tokens_of_vocabulary
        )
        put_tokenizer(self._folder, tokenizer.to_str(), tokenizer_json(self._config.max_seq_length))

    def _texts(self) -> Iterator[str]:
        for split in range(self._num_splits):
            left = MOST_CHARACTERS // self._num_splits
            for block in self._source.batches(split):
                texts = block["content"].filter(pc.invert(block["dropped"])).drop_null()
                # The texts are gone through several times.
                progress.report("subwords", 0 if self._is_counted else block.num_rows)
                for text in texts.to_pylist():
                    yield text[:left]
                    left -= len(text)
                    if left <= 0:
                        break
                if left <= 0:
                    break
        self._is_counted = True


class TrainTokenizer(beam.PTransform):  # type: ignore[misc]
    """Writes tokenizer.json and tokenizer_config.json.

    Args:
        source: with `content` and `dropped`.
        num_splits: of the source.
        folder: gets the files.
        config: kind and size of the vocabulary.
    """

    def __init__(
        self, source: BlockSource, num_splits: int, folder: str, config: PretrainingConfig
    ) -> None:
        super().__init__()
        self._train = TrainTokenizerDoFn(source, num_splits, folder, config)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return pbegin | "Start" >> beam.Create([None]) | "Train" >> beam.ParDo(self._train)


@lru_cache(maxsize=2)
def _maker(folder: str, config: PretrainingConfig, num_shards: int) -> SequenceMaker:
    tokenizer = read_tokenizer(host_cache.copy_of_folder(folder))
    return SequenceMaker(
        tokenizer,
        special_tokens(tokenizer),
        config.max_seq_length,
        num_shards,
        config.eval_fraction,
        config.seed,
    )


Made = tuple[pa.RecordBatch, Counter[str]]
"""Sequences of a block, and what became of its documents."""


class MakeSequencesDoFn(MapBlocksDoFn[Made]):
    """Blocks with content, text_sha256, language, starts, ends and dropped to sequences.

    A split's sequences come when it is through, sorted by shard and key; the last block carries
    what became of its documents.
    """

    def __init__(self, folder: str, config: PretrainingConfig, num_shards: int) -> None:
        self._folder = folder
        self._config = config
        self._num_shards = num_shards
        self._made: list[pa.RecordBatch] = []
        self._fates: Counter[str] = Counter()
        self._sequences = Metrics.counter("MakeSequences", "sequences-out")

    def start_bundle(self) -> None:
        super().start_bundle()
        self._made, self._fates = [], Counter()

    def compute(self, block: pa.RecordBatch) -> Made:
        kept = block.filter(pc.and_(pc.invert(block["dropped"]), block["content"].is_valid()))
        columns = [kept[name].to_pylist() for name in ("content", "text_sha256", "language")]
        spans = [_arrays(kept[name]) for name in ("starts", "ends")]
        documents = [Document(*row) for row in zip(*columns, *spans, strict=True)]
        maker = _maker(self._folder, self._config, self._num_shards)
        return maker.sequences(documents)

    def emit(self, result: Made, split: int) -> Iterator[pa.RecordBatch]:
        made, fates = result
        self._made.append(made)
        self._fates.update(fates)
        self._sequences.inc(made.num_rows)
        yield from ()

    def emit_last(self, split: int) -> Iterator[pa.RecordBatch]:
        made, fates = pa.Table.from_batches(self._made, SCHEMA), dict(self._fates)
        self._made, self._fates = [], Counter()
        order = np.lexsort([made["key"].to_numpy(), made["shard"].to_numpy()])
        ordered = made.take(pa.array(order)).combine_chunks()
        for batch in ordered.to_batches(_ROWS_PER_BLOCK):
            yield blocks.of_split(batch, split)
        yield blocks.last_block(SCHEMA, split, fates)


def _arrays(lists: pa.ListArray) -> list[np.ndarray]:
    return [np.asarray(row.values) for row in lists]


class MakeSequences(beam.PTransform):  # type: ignore[misc]
    """Sequences of model tokens of every document that is kept.

    Args:
        folder: of the tokenizer.
        config: how long they are, and who is held out.
        num_shards: that they are spread over; held-out ones go to one more.
    """

    def __init__(self, folder: str, config: PretrainingConfig, num_shards: int) -> None:
        super().__init__()
        self._make = MakeSequencesDoFn(folder, config, num_shards)

    def expand(self, blocks_in: beam.PCollection) -> beam.PCollection:
        return blocks_in | "Make" >> beam.ParDo(self._make).with_output_types(pa.RecordBatch)


class ShuffleShardDoFn(beam.DoFn):  # type: ignore[misc]
    """Writes one shard: its sequences of all splits, in the order of their keys."""

    def __init__(self, sequences: PartFolder, train: PartFolder, held_out: PartFolder) -> None:
        self._sequences = sequences
        self._train = train
        self._held_out = held_out

    def process(self, shard: int) -> None:
        is_train = shard < self._train.num_parts
        path = self._train.part(shard) if is_train else self._held_out.part(0)
        if storage.exists(path):
            return
        table = pa.concat_tables(rows_of_shard(part, shard) for part in self._sequences.parts())
        # Equal keys are those of equal texts.
        table = table.take(pa.array(np.argsort(table["key"].to_numpy(), kind="stable")))
        write_arrow(path, table.select(_TRAINED.names))
        progress.report("shuffle", table.num_rows)


def rows_of_shard(path: str, shard: int) -> pa.Table:
    """A shard's rows of a part that is sorted by shard; only their row groups are read."""
    with open_part(path) as part:
        column = part.schema_arrow.get_field_index("shard")
        groups = [
            index
            for index in range(part.metadata.num_row_groups)
            for statistics in [part.metadata.row_group(index).column(column).statistics]
            if statistics.min <= shard <= statistics.max
        ]
        table = part.read_row_groups(groups)
    return table.filter(pc.equal(table["shard"], shard))


class ShuffleSequences(beam.PTransform):  # type: ignore[misc]
    """Every shard as an Arrow file of `input_ids` and `word_starts`.

    Args:
        sequences: parts of MakeSequences.
        train: gets as many shards as it has parts.
        held_out: gets the held-out sequences, in one.
    """

    def __init__(self, sequences: PartFolder, train: PartFolder, held_out: PartFolder) -> None:
        super().__init__()
        self._num_shards = train.num_parts + 1
        self._shuffle = ShuffleShardDoFn(sequences, train, held_out)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        shards = pbegin | "AllShards" >> ListIndices(self._num_shards)
        return shards | "Shuffle" >> beam.ParDo(self._shuffle)


def copy_of_tokenizer(folder: str, target: Path) -> None:
    """Put a tokenizer's files into a local folder."""
    for name in (TOKENIZER, TOKENIZER_CONFIG):
        (target / name).write_bytes(storage.read_bytes(storage.join(folder, name)))
