"""Where each thing lies that a run's stages read and write, and what an earlier run offers them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from lexbeam.models import schemas
from lexbeam.models.features import FeatureConfig
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.plan import Plan
from lexbeam.pipeline.reuse import LEAST_SHARE_OF_TOKENS, Earlier
from lexbeam.pipeline.runs import RunDir
from lexbeam.transforms import host_cache, storage
from lexbeam.transforms.attempts import Attempts
from lexbeam.transforms.compare import ids_folder
from lexbeam.transforms.count import CountChange, CountFolders
from lexbeam.transforms.died import DiedRows
from lexbeam.transforms.earlier_parts import EarlierParts
from lexbeam.transforms.earlier_rows import EarlierRows
from lexbeam.transforms.encode import part_schema
from lexbeam.transforms.examples import ExampleTexts
from lexbeam.transforms.extract import ExtractConfig
from lexbeam.transforms.part_files import BlockSource, Columns, PartFolder, ZippedParts
from lexbeam.transforms.parts import SplitWork
from lexbeam.transforms.text_index import index_folder
from lexbeam.transforms.tokenize import TEXT_COLUMNS, SplitSource

# A shard of a `pretrain`: about as many bytes as the text that it is made of.
_BYTES_PER_SHARD = 64 << 20
_MOST_SHARDS = 4096


@dataclass(frozen=True)
class Workspace:
    """The folders of a run, and the sources that its stages read."""

    run: RunDir
    plan: Plan

    def _reusable(self, name: str) -> PartFolder:
        """Parts that stay, where later runs may take them over."""
        folder = self.run.reuse if self.plan.reuse_store else self.run.intermediate
        return PartFolder(storage.join(folder, name), self.plan.num_splits)

    @cached_property
    def tokens(self) -> PartFolder:
        """Read and tokenized documents, rejected ones included."""
        return self._reusable("tokens")

    @cached_property
    def dropped(self) -> PartFolder:
        """Rows of later documents of an id."""
        return self._reusable("dropped")

    @cached_property
    def bow(self) -> PartFolder:
        """Bags of words."""
        return PartFolder(storage.join(self.run.intermediate, "bow"), self.plan.num_splits)

    @cached_property
    def encoded(self) -> PartFolder:
        """Embeddings and received attention."""
        return self._reusable("encoded")

    @cached_property
    def classified(self) -> PartFolder:
        """Classes, where the classifier is another model than the encoder."""
        return PartFolder(storage.join(self.run.intermediate, "classified"), self.plan.num_splits)

    @cached_property
    def counts(self) -> CountFolders:
        """Counts of each split, and merged ones."""
        merged = storage.join(self.run.intermediate, "counts")
        if self.plan.keep_state:
            merged = self.state
        return CountFolders.below(merged, self._reusable("counts"))

    @property
    def state(self) -> str:
        """What the next fit can add to and take away from."""
        return storage.join(self.run.model, host_cache.STATE)

    @cached_property
    def ids(self) -> PartFolder:
        """Ids and texts of the documents that were counted, by their hashes."""
        return ids_folder(storage.join(self.state, "ids"))

    @cached_property
    def index(self) -> PartFolder:
        """Where each text stands, for later runs."""
        return index_folder(storage.join(self.run.reuse, "index"))

    @cached_property
    def comparison(self) -> str:
        """How the corpus differs from the earlier run's."""
        return storage.join(self.run.intermediate, "comparison.json")

    @cached_property
    def earlier(self) -> Earlier | None:
        """The run to take over from; None where there is none, or it has been removed since."""
        if self.plan.reuse is None:
            return None
        try:
            return Earlier.of(RunDir(self.run.output, self.plan.reuse), self.plan)
        except UsageError:
            return None

    @cached_property
    def earlier_work(self) -> Workspace | None:
        """The folders of that run."""
        if self.earlier is None:
            return None
        return Workspace(self.earlier.run, self.earlier.earlier_plan)

    def _earlier_parts(
        self, parts: str, *, dropped: bool, errors: bool = False
    ) -> EarlierParts | None:
        earlier, work = self.earlier, self.earlier_work
        if earlier is None or work is None or not any(split >= 0 for split in earlier.splits):
            return None
        return EarlierParts(
            parts=work.counts.splits if parts == "counts" else getattr(work, parts),
            run=earlier.published,
            splits=earlier.splits,
            dropped=(self.dropped, work.dropped) if dropped else None,
            without_errors=errors,
        )

    @cached_property
    def earlier_tokens(self) -> EarlierParts | None:
        """Tokens of the earlier run that can be taken over whole."""
        return self._earlier_parts("tokens", dropped=False)

    @cached_property
    def earlier_counts(self) -> EarlierParts | None:
        """Counts of the earlier run that can be taken over whole."""
        return self._earlier_parts("counts", dropped=True)

    @cached_property
    def earlier_encoded(self) -> EarlierParts | None:
        """Embeddings of the earlier run that can be taken over whole; not where some failed."""
        if self.earlier is None or not self.earlier.embeddings:
            return None
        return self._earlier_parts("encoded", dropped=True, errors=True)

    def count_change(self) -> CountChange | None:
        """How the counts differ from the merged ones of the earlier run; None: merge all.

        None also where that would not be less work.
        """
        parts, work = self.earlier_counts, self.earlier_work
        if parts is None or work is None or not work.plan.keep_state:
            return None
        now, then = self.counts.splits, work.counts.splits
        same = [split for split in range(now.num_parts) if parts.is_taken_over(split, now)]
        added = sorted(set(range(now.num_parts)) - set(same))
        removed = sorted(set(range(then.num_parts)) - {parts.splits[split] for split in same})
        merged = work.counts.merged_parts()
        gone = [then.part(split) for split in removed]
        if len(added) + len(removed) >= now.num_parts:
            return None
        if not all(parts.run.is_sound(path) for path in (*merged, *gone)):
            return None
        return CountChange(tuple(merged), tuple(map(now.part, added)), tuple(gone))

    def token_rows(self) -> EarlierRows | None:
        """Tokens of the earlier run's texts."""
        earlier, work = self.earlier, self.earlier_work
        if earlier is None or work is None or not earlier.tokens:
            return None
        return EarlierRows(
            earlier.published, work.index.path, work.tokens, TEXT_COLUMNS, LEAST_SHARE_OF_TOKENS
        )

    def encoded_rows(self, schema: pa.Schema) -> EarlierRows | None:
        """Embeddings of the earlier run's texts."""
        earlier, work = self.earlier, self.earlier_work
        if earlier is None or work is None or not earlier.embeddings:
            return None
        return EarlierRows(earlier.published, work.index.path, work.encoded, tuple(schema.names))

    @cached_property
    def documents(self) -> PartFolder:
        """The published documents."""
        return PartFolder(self.run.file("documents"), self.plan.num_splits)

    @cached_property
    def errors(self) -> PartFolder:
        """The published errors."""
        return PartFolder(self.run.file("errors"), self.plan.num_splits)

    @cached_property
    def sequences(self) -> PartFolder:
        """Of a `pretrain`: each split's sequences of model tokens."""
        return PartFolder(storage.join(self.run.intermediate, "sequences"), self.plan.num_splits)

    @cached_property
    def shards(self) -> PartFolder:
        """Of a `pretrain`: the sequences that are learned from, in random order."""
        num_bytes = sum(source.size for source in self.plan.layout.sources)
        num_shards = max(1, min(_MOST_SHARDS, num_bytes // _BYTES_PER_SHARD))
        return PartFolder(storage.join(self.run.intermediate, "shards"), num_shards, "arrow")

    @cached_property
    def held_out(self) -> PartFolder:
        """Of a `pretrain`: the sequences that are evaluated on."""
        return PartFolder(storage.join(self.run.intermediate, "held_out"), 1, "arrow")

    @cached_property
    def examples(self) -> PartFolder:
        """Of a `finetune`: each split's examples."""
        return PartFolder(storage.join(self.run.intermediate, "examples"), self.plan.num_splits)

    @property
    def gathered(self) -> str:
        """Of a `finetune`: all examples in one file."""
        return storage.join(self.run.intermediate, "gathered", "examples.arrow")

    @property
    def example_texts(self) -> ExampleTexts:
        """Of a `finetune`: which columns of the tokens make an example."""
        config = self.plan.config.input
        if config.pair_key is not None:
            return ExampleTexts(second=config.pair_key)
        if config.title_apart:
            return ExampleTexts(first="title", second="content")
        return ExampleTexts(label=config.label_key)

    @property
    def tokenizer(self) -> str:
        """Of a `pretrain`: folder of the model's tokenizer."""
        return self.run.file("tokenizer")

    @property
    def died(self) -> DiedRows:
        """Documents that made a process die."""
        return DiedRows(self.run.died)

    def splits(
        self,
        stage: str,
        source: BlockSource,
        *folders: PartFolder,
        earlier: EarlierParts | None = None,
    ) -> SplitWork:
        """What a stage has to do that reads the source and writes into the folders."""
        marks = Attempts(storage.join(self.run.attempts, stage))
        return SplitWork(source, folders, stage, marks, earlier)

    @property
    def model_dir(self) -> str:
        """Folder of the corpus models that extract uses."""
        return self.plan.model_dir(self.run)

    @property
    def keep_columns(self) -> tuple[str, ...]:
        """Extra columns of the input."""
        return self.plan.config.input.keep_columns

    @property
    def tokens_schema(self) -> pa.Schema:
        """Schema of the tokens parts."""
        return schemas.tokens_schema(self.keep_columns)

    def input_source(self) -> SplitSource:
        """The documents of the input."""
        return SplitSource(self.run.plan, self.keep_columns, died=self.died)

    def token_columns(self, *names: str) -> ZippedParts:
        """Some columns of the tokens parts, with the dropped rows marked."""
        columns = Columns(self.tokens, self.tokens_schema, names)
        return ZippedParts((columns,), self.dropped, died=self.died)

    def extract_source(self) -> ZippedParts:
        """Everything that extract needs, zipped row by row."""
        names = tuple(name for name in self.tokens_schema.names if name != "id_hash")
        columns = [
            Columns(self.tokens, self.tokens_schema, names),
            Columns(self.bow, schemas.BOW, tuple(schemas.BOW.names)),
        ]
        if self.plan.encoder is not None:
            schema = part_schema(self.plan.encoder)
            renamed = _error_names("encode")
            columns.append(Columns(self.encoded, schema, tuple(schema.names), renamed))
        if self.plan.classifier is not None:
            schema, renamed = schemas.CLASSIFIED, _error_names("classify")
            columns.append(Columns(self.classified, schema, tuple(schema.names), renamed))
        return ZippedParts(tuple(columns), self.dropped, died=self.died)

    def extract_config(self, *, has_topics: bool) -> ExtractConfig:
        """What extract writes."""
        config, encoder = self.plan.config, self.plan.encoder
        features = FeatureConfig(
            features=config.features,
            top_k=config.top_k,
            model_dir=self.model_dir,
            dimensions=encoder.dimensions if encoder else 0,
            sublinear_tf=config.counts.sublinear_tf,
            has_topics=has_topics,
            keyword_weights=config.keyword_weights,
        )
        has_labels = self.plan.tells_labels
        return ExtractConfig(features, config.keep_text, self.keep_columns, has_labels)


def _error_names(stage: str) -> tuple[tuple[str, str], ...]:
    """Columns of a model's errors, and what they are called beside those of others."""
    return tuple((name, f"{stage}_{name}") for name in ("error_type", "error_message"))
