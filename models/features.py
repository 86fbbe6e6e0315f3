"""All features of a block of documents, from its tokens, bags of words and encodings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lexbeam.models import keyphrases, lda, schemas, textrank, tfidf
from lexbeam.models.config import TextRankConfig
from lexbeam.models.keyphrase_candidates import find_candidates
from lexbeam.models.keyphrase_weights import KeyphraseWeights
from lexbeam.models.token_blocks import TokenBlock
from lexbeam.models.user_dict import read_user_dict
from lexbeam.models.vocabulary import Vocabulary, cached_vocabulary


@dataclass(frozen=True)
class FeatureConfig:
    """Which features a document gets, and from which files.

    Attributes:
        features: any of config.FEATURES.
        top_k: keywords in each list, at most.
        model_dir: local folder of the corpus models (vocabulary.parquet, phrases.parquet, lda/).
        dimensions: of the embeddings; 0 without bert.
        sublinear_tf: see `config.CountConfig`.
        has_topics: whether the corpus was large enough for an LDA.
        textrank: settings of the word graph.
        keyword_weights: of the fused keywords.
    """

    features: tuple[str, ...]
    top_k: int
    model_dir: str
    dimensions: int = 0
    sublinear_tf: bool = False
    has_topics: bool = True
    textrank: TextRankConfig = field(default_factory=TextRankConfig)
    keyword_weights: KeyphraseWeights = field(default_factory=KeyphraseWeights)


@dataclass(frozen=True)
class FeatureModels:
    """The corpus models, loaded once per process."""

    vocabulary: Vocabulary
    phrases: keyphrases.PhraseCounts
    lda: lda.LdaModel | None
    user_words: frozenset[str]

    @classmethod
    def load(cls, config: FeatureConfig) -> FeatureModels:
        """Load what the features need; raises ValueError naming a damaged file."""
        folder = Path(config.model_dir)
        has_topics = "lda" in config.features and config.has_topics
        return cls(
            vocabulary=cached_vocabulary(str(folder / "vocabulary.parquet")),
            phrases=keyphrases.cached_phrase_counts(str(folder / "phrases.parquet")),
            lda=lda.cached_model(str(folder / "lda")) if has_topics else None,
            user_words=_user_words(folder),
        )


def _user_words(model_dir: Path) -> frozenset[str]:
    """Content words of the user's dictionary that the model was fitted with."""
    user_dict = tfidf.read_text_config(model_dir).user_dict
    return textrank.content_words(read_user_dict(user_dict)[1]) if user_dict else frozenset()


def document_features(
    batch: pa.RecordBatch, models: FeatureModels, config: FeatureConfig
) -> dict[str, pa.Array]:
    """Columns of schemas.documents_schema that are computed, of those features that are on.

    batch: tokens (schemas.TOKEN_FIELDS and content), schemas.BOW and, with bert, the columns of
    schemas.encoded_part_schema; every row a good document.
    """
    bow = batch.select(schemas.BOW.names)
    columns = {"num_terms": num_terms(bow)}
    if "tfidf" in config.features:
        columns["keywords_tfidf"] = tfidf.top_terms(
            bow, models.vocabulary, config.top_k, config.sublinear_tf
        )
    block = TokenBlock.from_batch(batch)
    word_scores = None
    if "textrank" in config.features:
        word_scores = textrank.word_scores(batch, config.textrank, models.user_words, block)
        columns["keywords_textrank"] = textrank.keywords_textrank(
            batch, config.top_k, config.textrank, word_scores
        )
    if models.lda is not None:
        columns |= _topic_columns(bow, models, config)
    encoded = None
    if "bert" in config.features:
        columns |= {name: batch[name] for name in ("num_tokens", "num_chunks", "truncated")}
        embedding_type = pa.list_(pa.float32(), config.dimensions)
        columns["embedding"] = batch["embedding"].cast(embedding_type)
        encoded = batch.select(["attention_starts", "attention_ends", "attention"])
    columns |= _phrase_columns(batch, block, models, config, encoded, word_scores)
    return columns


def num_terms(bow: pa.RecordBatch) -> pa.Array:
    """Tokens of each document that are in the vocabulary, int32."""
    lengths = pc.list_value_length(bow["counts"]).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    sums = np.concatenate([[0], np.cumsum(bow["counts"].flatten().to_numpy())])
    return pa.array((sums[offsets[1:]] - sums[offsets[:-1]]).astype(np.int32))


def _topic_columns(
    bow: pa.RecordBatch, models: FeatureModels, config: FeatureConfig
) -> dict[str, pa.Array]:
    assert models.lda is not None
    theta = lda.fold_in(bow, models.lda)
    return {
        "topics": lda.document_topics(bow, theta),
        "keywords_lda": lda.keywords_lda(
            bow, theta, models.lda, models.vocabulary.terms, config.top_k
        ),
    }


def _phrase_columns(
    batch: pa.RecordBatch,
    block: TokenBlock,
    models: FeatureModels,
    config: FeatureConfig,
    encoded: pa.RecordBatch | None,
    word_scores: textrank.WordScores | None,
) -> dict[str, pa.Array]:
    """The fused keywords, and those by received attention where documents were encoded."""
    columns: dict[str, pa.Array] = {}
    if set(config.features) == {"lda"}:
        return columns
    found = find_candidates(batch, block)
    if encoded is not None:
        columns["keywords_bert"] = keyphrases.keywords_bert(batch, encoded, config.top_k, found)
    columns["keywords"] = keyphrases.keywords(
        batch,
        models.phrases,
        encoded,
        config.top_k,
        weights=config.keyword_weights,
        word_scores=word_scores,
        candidates=found,
    )
    return columns
