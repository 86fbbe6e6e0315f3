"""The stages of each command, in order, as Beam pipelines over a run's folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import apache_beam as beam
import pyarrow as pa

from lexbeam.models import schemas
from lexbeam.models.features import FeatureConfig
from lexbeam.pipeline import corpus_model
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.plan import Plan
from lexbeam.pipeline.reuse import LEAST_SHARE_OF_TOKENS, Earlier
from lexbeam.pipeline.runs import RunDir
from lexbeam.transforms import storage
from lexbeam.transforms.attempts import Attempts
from lexbeam.transforms.compare import CompareCorpora, Corpus, KeepIds, ids_folder
from lexbeam.transforms.count import (
    CountChange,
    CountDocumentFrequency,
    CountFolders,
    CountTermsOfDocuments,
    MergeCounts,
)
from lexbeam.transforms.died import DiedRows
from lexbeam.transforms.duplicates import DropDuplicateIds
from lexbeam.transforms.earlier_parts import EarlierParts
from lexbeam.transforms.earlier_rows import EarlierRows
from lexbeam.transforms.encode import ROWS_PER_ROW_GROUP, EncodeDocuments
from lexbeam.transforms.extract import (
    ERRORS,
    CollectErrors,
    ExtractConfig,
    ExtractFeatures,
)
from lexbeam.transforms.fit import FitVocabulary
from lexbeam.transforms.fit_topics import FitTopics
from lexbeam.transforms.lda_checkpoints import LdaCheckpoints
from lexbeam.transforms.lda_passes import distributed_fit
from lexbeam.transforms.part_files import BlockSource, Columns, PartFolder, ZippedParts
from lexbeam.transforms.parts import ReadSplits, SplitWork, WriteParts
from lexbeam.transforms.text_index import IndexTexts, index_folder
from lexbeam.transforms.tokenize import TEXT_COLUMNS, SplitSource, TokenizeDocuments
from lexbeam.transforms.topic_files import TopicFiles

Build = Callable[[beam.Pipeline], object]
"""Adds transforms to a pipeline."""


@dataclass(frozen=True)
class Stage:
    """A step of a job: one Beam pipeline, or several that run one after the other.

    Attributes:
        name: as shown to the user.
        pipelines: gives what builds the stage's pipelines; each is asked for when the one before
            has run, since what it does may follow from what that one wrote.
        is_done: whether all it writes is there already.
        passes: of a stage that goes over the corpus several times; it reports passes.
        splits: of a stage that works on each split by itself; else None.
    """

    name: str
    pipelines: Callable[[], Iterable[Build]]
    is_done: Callable[[], bool]
    passes: int | None = None
    splits: MapOfSplits | None = None


@dataclass(frozen=True)
class MapOfSplits:
    """A stage that works on each split by itself.

    Attributes:
        work: the splits that it reads and the parts that it writes.
        build: adds the stage's transforms to a pipeline, for this work or a part of it.
    """

    work: SplitWork
    build: Callable[[beam.Pipeline, SplitWork], object]


def _single(
    name: str, build: Build, is_done: Callable[[], bool], passes: int | None = None
) -> Stage:
    """A stage of one pipeline."""
    return Stage(name, lambda: [build], is_done, passes)


def _map(name: str, splits: MapOfSplits) -> Stage:
    """A stage of one pipeline, which works on each split by itself."""

    def build(pipeline: beam.Pipeline) -> object:
        return splits.build(pipeline, splits.work)

    return Stage(name, lambda: [build], lambda: not splits.work.missing(), splits=splits)


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
    def counts(self) -> CountFolders:
        """Counts of each split, and merged ones."""
        merged = storage.join(self.run.intermediate, "counts")
        if self.plan.keep_state:
            merged = self.state
        return CountFolders.below(merged, self._reusable("counts"))

    @property
    def state(self) -> str:
        """What the next fit can add to and take away from."""
        return storage.join(self.run.model, corpus_model.STATE)

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
            schema = schemas.encoded_part_schema(self.plan.encoder.dimensions)
            renamed = tuple((name, f"encode_{name}") for name in ("error_type", "error_message"))
            columns.append(Columns(self.encoded, schema, tuple(schema.names), renamed))
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
        return ExtractConfig(features, config.keep_text, self.keep_columns)


def tokenize(work: Workspace) -> Stage:
    """Read, detect the language, segment."""
    source = SplitSource(work.run.plan, work.keep_columns, died=work.died)
    config, keep_columns = work.plan.config.text, work.keep_columns
    rows = work.token_rows()

    def build(pipeline: beam.Pipeline, splits: SplitWork) -> object:
        (tokens,) = splits.folders
        return (
            pipeline
            | "ReadSplits" >> ReadSplits(splits)
            | "TokenizeDocuments" >> TokenizeDocuments(config, keep_columns, rows)
            | "WriteTokens" >> WriteParts(tokens, work.tokens_schema, "tokenize")
        )

    splits = work.splits("tokenize", source, work.tokens, earlier=work.earlier_tokens)
    return _map("tokenize", MapOfSplits(splits, build))


def drop_duplicates(work: Workspace) -> Stage:
    """Find the later documents of ids that were seen before."""

    def build(pipeline: beam.Pipeline) -> object:
        return pipeline | "DropDuplicateIds" >> DropDuplicateIds(work.tokens, work.dropped)

    return _single("duplicates", build, work.dropped.is_complete)


def count(work: Workspace) -> Stage:
    """Count words and phrases."""
    source = work.token_columns("content", "language", "tokens", "kinds", "starts", "ends")

    def build(pipeline: beam.Pipeline, splits: SplitWork) -> object:
        return pipeline | "CountDocumentFrequency" >> CountDocumentFrequency(splits)

    splits = work.splits("count", source, work.counts.splits, earlier=work.earlier_counts)
    return _map("count", MapOfSplits(splits, build))


def merge_counts(work: Workspace) -> Stage:
    """Merge the splits' counts."""

    def build(pipeline: beam.Pipeline) -> object:
        return pipeline | "MergeCounts" >> MergeCounts(work.counts, work.count_change())

    return _single("merge", build, work.counts.is_merged)


def fit_vocabulary(work: Workspace) -> Stage:
    """Prune, and write the vocabulary."""
    config = work.plan.config.counts

    def build(pipeline: beam.Pipeline) -> object:
        return pipeline | "FitVocabulary" >> FitVocabulary(
            work.counts, config, work.run.model, work.run.file("terms")
        )

    vocabulary = storage.join(work.run.model, "vocabulary.parquet")
    return _single("vocabulary", build, lambda: storage.exists(vocabulary))


def bag_of_words(work: Workspace) -> Stage:
    """Bags of words over the vocabulary."""
    source = work.token_columns("content", "language", "tokens", "kinds", "starts", "ends")
    vocabulary = storage.join(work.model_dir, "vocabulary.parquet")

    def build(pipeline: beam.Pipeline, splits: SplitWork) -> object:
        (bow,) = splits.folders
        return (
            pipeline
            | "ReadSplits" >> ReadSplits(splits)
            | "CountTermsOfDocuments" >> CountTermsOfDocuments(vocabulary)
            | "WriteBow" >> WriteParts(bow, schemas.BOW, "bow")
        )

    return _map("bow", MapOfSplits(work.splits("bow", source, work.bow), build))


def fit_topics(work: Workspace) -> Stage:
    """Fit the LDA, in one worker or in a pipeline a pass."""
    files = TopicFiles(
        bow=work.bow,
        tokens=work.tokens,
        model_dir=work.run.model,
        topics=PartFolder(work.run.file("topics"), 1),
        checkpoints=LdaCheckpoints(storage.join(work.run.intermediate, "lda")),
        warm_start=work.plan.warm_start,
    )
    is_done = files.topics.is_complete
    config = work.plan.config.lda
    if "lda" not in work.plan.config.features:
        return _single("lda", lambda pipeline: pipeline | FitTopics(files, None), is_done)
    if work.plan.lda_execution == "distributed":
        return Stage("lda", lambda: distributed_fit(files, config), is_done, config.passes)
    return _single(
        "lda", lambda pipeline: pipeline | FitTopics(files, config), is_done, config.passes
    )


def encode(work: Workspace) -> Stage:
    """BERT."""
    spec = work.plan.encoder
    assert spec is not None
    schema = schemas.encoded_part_schema(spec.dimensions)
    rows = work.encoded_rows(schema)
    source = work.token_columns(*(["content", "text_sha256"] if rows else ["content"]))

    def build(pipeline: beam.Pipeline, splits: SplitWork) -> object:
        (encoded,) = splits.folders
        return (
            pipeline
            | "ReadSplits" >> ReadSplits(splits)
            | "EncodeDocuments" >> EncodeDocuments(spec, work.plan.config.encoder, rows)
            | "WriteEncoded" >> WriteParts(encoded, schema, "encode", ROWS_PER_ROW_GROUP)
        )

    splits = work.splits("encode", source, work.encoded, earlier=work.earlier_encoded)
    return _map("encode", MapOfSplits(splits, build))


def index_texts(work: Workspace) -> Stage:
    """Where each text stands, for later runs."""

    def build(pipeline: beam.Pipeline) -> object:
        return pipeline | "IndexTexts" >> IndexTexts(work.tokens, work.dropped, work.index)

    return _single("index", build, work.index.is_complete)


def keep_ids(work: Workspace) -> Stage:
    """Ids and texts of the documents that were counted."""
    corpus = Corpus(work.tokens, work.dropped)

    def build(pipeline: beam.Pipeline) -> object:
        return pipeline | "KeepIds" >> KeepIds(corpus, work.ids)

    return _single("ids", build, work.ids.is_complete)


def compare(work: Workspace) -> Stage:
    """How the corpus differs from that of the earlier run."""
    earlier = work.earlier_work
    assert earlier is not None
    assert work.earlier is not None
    now = Corpus(work.tokens, work.dropped)
    ids = earlier.ids if earlier.plan.keep_state else None
    then = Corpus(earlier.tokens, earlier.dropped, work.earlier.published, ids)

    def build(pipeline: beam.Pipeline) -> object:
        return pipeline | "Compare" >> CompareCorpora(now, then, work.comparison)

    return _single("compare", build, lambda: storage.exists(work.comparison))


def extract(work: Workspace, *, has_topics: bool) -> Stage:
    """Keywords, topics and embeddings of every document."""
    config = work.extract_config(has_topics=has_topics)

    def build(pipeline: beam.Pipeline, splits: SplitWork) -> object:
        documents, errors = splits.folders
        extracted = (
            pipeline
            | "ReadSplits" >> ReadSplits(splits)
            | "ExtractFeatures" >> ExtractFeatures(config)
        )
        return (
            extracted.documents
            | "WriteDocuments" >> WriteParts(documents, config.schema, "extract"),
            extracted[ERRORS] | "WriteErrors" >> WriteParts(errors, schemas.ERRORS, "errors"),
        )

    splits = work.splits("extract", work.extract_source(), work.documents, work.errors)
    return _map("extract", MapOfSplits(splits, build))


def map_stage(work: Workspace, name: str) -> Stage:
    """A stage that works on each split by itself, by its name."""
    if name == "extract":
        has_topics = corpus_model.topic_metrics(work)["num_topics"] > 0
        return extract(work, has_topics=has_topics)
    by_name = {
        "tokenize": tokenize,
        "count": count,
        "bow": bag_of_words,
        "encode": encode,
        "errors": collect_errors,
    }
    return by_name[name](work)


def collect_errors(work: Workspace) -> Stage:
    """The rejected documents of a job that writes no documents."""
    names = ("doc_id", "source", "position", "error_type", "error_message")
    source = work.token_columns(*names)

    def build(pipeline: beam.Pipeline, splits: SplitWork) -> object:
        (errors,) = splits.folders
        return (
            pipeline
            | "ReadSplits" >> ReadSplits(splits)
            | "CollectErrors" >> CollectErrors()
            | "WriteErrors" >> WriteParts(errors, schemas.ERRORS, "errors")
        )

    return _map("errors", MapOfSplits(work.splits("errors", source, work.errors), build))
