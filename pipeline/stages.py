"""The stages of each command, in order, as Beam pipelines over a run's folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import apache_beam as beam

from lexbeam.models import schemas
from lexbeam.models.finetuning.examples import SCHEMA as EXAMPLES
from lexbeam.models.pretraining.sequences import SCHEMA as SEQUENCES
from lexbeam.pipeline import corpus_model
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms import storage
from lexbeam.transforms.compare import CompareCorpora, Corpus, KeepIds
from lexbeam.transforms.count import (
    CountDocumentFrequency,
    CountTermsOfDocuments,
    MergeCounts,
)
from lexbeam.transforms.duplicates import DropDuplicateIds
from lexbeam.transforms.encode import ROWS_PER_ROW_GROUP, EncodeDocuments, part_schema
from lexbeam.transforms.examples import MakeExamples
from lexbeam.transforms.extract import (
    ERRORS,
    CollectErrors,
    ExtractFeatures,
)
from lexbeam.transforms.fit import FitVocabulary
from lexbeam.transforms.fit_topics import FitTopics
from lexbeam.transforms.lda_checkpoints import LdaCheckpoints
from lexbeam.transforms.lda_passes import distributed_fit
from lexbeam.transforms.part_files import PartFolder
from lexbeam.transforms.parts import ReadSplits, SplitWork, WriteParts
from lexbeam.transforms.sequences import MakeSequences, ShuffleSequences, TrainTokenizer
from lexbeam.transforms.text_index import IndexTexts
from lexbeam.transforms.tokenize import TokenizeDocuments
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


def tokenize(work: Workspace) -> Stage:
    """Read, detect the language, segment."""
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

    splits = work.splits("tokenize", work.input_source(), work.tokens, earlier=work.earlier_tokens)
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
    schema = part_schema(spec)
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


def classify(work: Workspace) -> Stage:
    """Classes, by another model than the one that embeds."""
    spec, config = work.plan.classifier, work.plan.config.classifier
    assert spec is not None
    assert config is not None
    source = work.token_columns("content")

    def build(pipeline: beam.Pipeline, splits: SplitWork) -> object:
        (classified,) = splits.folders
        return (
            pipeline
            | "ReadSplits" >> ReadSplits(splits)
            | "ClassifyDocuments" >> EncodeDocuments(spec, config, schema=schemas.CLASSIFIED)
            | "WriteClassified" >> WriteParts(classified, schemas.CLASSIFIED, "classify")
        )

    return _map("classify", MapOfSplits(work.splits("classify", source, work.classified), build))


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
        "classify": classify,
        "errors": collect_errors,
        "sequences": make_sequences,
        "examples": make_examples,
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


def make_examples(work: Workspace) -> Stage:
    """Of a `finetune`: windows of model tokens, with labels or second texts."""
    config, spec = work.plan.finetuning, work.plan.encoder
    assert config is not None
    assert spec is not None
    texts = work.example_texts
    source = work.token_columns("doc_id", "text_sha256", *texts.columns)

    def build(pipeline: beam.Pipeline, splits: SplitWork) -> object:
        (examples,) = splits.folders
        return (
            pipeline
            | "ReadSplits" >> ReadSplits(splits)
            | "MakeExamples" >> MakeExamples(spec, config, texts)
            | "WriteExamples" >> WriteParts(examples, EXAMPLES, "examples")
        )

    return _map("examples", MapOfSplits(work.splits("examples", source, work.examples), build))


def train_tokenizer(work: Workspace) -> Stage:
    """Of a `pretrain` from scratch: the vocabulary."""
    config = work.plan.pretraining
    assert config is not None
    source = work.token_columns("content")

    def build(pipeline: beam.Pipeline) -> object:
        return pipeline | "TrainTokenizer" >> TrainTokenizer(
            source, work.plan.num_splits, work.tokenizer, config
        )

    tokenizer = storage.join(work.tokenizer, "tokenizer.json")
    return _single("subwords", build, lambda: storage.exists(tokenizer))


def make_sequences(work: Workspace) -> Stage:
    """Of a `pretrain`: model tokens, cut into sequences."""
    config = work.plan.pretraining
    assert config is not None
    source = work.token_columns("content", "text_sha256", "language", "starts", "ends")

    def build(pipeline: beam.Pipeline, splits: SplitWork) -> object:
        (sequences,) = splits.folders
        return (
            pipeline
            | "ReadSplits" >> ReadSplits(splits)
            | "MakeSequences" >> MakeSequences(work.tokenizer, config, work.shards.num_parts)
            | "WriteSequences" >> WriteParts(sequences, SEQUENCES, "sequences")
        )

    splits = work.splits("sequences", source, work.sequences)
    return _map("sequences", MapOfSplits(splits, build))


def shuffle(work: Workspace) -> Stage:
    """Of a `pretrain`: the sequences in random order, in shards."""

    def build(pipeline: beam.Pipeline) -> object:
        return pipeline | "ShuffleSequences" >> ShuffleSequences(
            work.sequences, work.shards, work.held_out
        )

    return _single(
        "shuffle", build, lambda: work.shards.is_complete() and work.held_out.is_complete()
    )
