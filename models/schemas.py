"""Arrow schemas of every file that lexbeam writes, intermediate and published.

Offsets are in code points of a document's content, half open.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1

KEYWORDS = pa.list_(pa.struct([("term", pa.string()), ("score", pa.float32())]))
TOPIC_WEIGHTS = pa.list_(pa.struct([("topic", pa.int32()), ("weight", pa.float32())]))
KEYWORD_COLUMNS = (
    "keywords_tfidf",
    "keywords_textrank",
    "keywords_lda",
    "keywords_bert",
    "keywords",
)

# Kinds of a token (`kinds` of the tokens parts).
TERM = 0  # a word that is counted, and may enter the vocabulary
STOP = 1  # a stop word: breaks a phrase, is not counted
WORD = 2  # another word that is not counted: a single Han character or letter
NUMBER = 3  # digits only, apart from inner punctuation
PUNCTUATION = 4  # any other token: breaks a phrase
SENTENCE_END = 5  # punctuation or line break that ends a sentence

# Stages whose model may fail at a document.
ENCODING_STAGES = ("encode", "classify")

READ_FIELDS = [
    pa.field("doc_id", pa.string()),
    pa.field("source", pa.string()),
    pa.field("position", pa.int64()),
    pa.field("title", pa.string()),
    pa.field("content", pa.string()),
    pa.field("error_type", pa.string()),
    pa.field("error_message", pa.string()),
]
"""A read document, or a rejected one: then content is null and error_type is not."""

TOKEN_FIELDS = [
    pa.field("id_hash", pa.binary(16)),
    pa.field("language", pa.string()),
    pa.field("text_sha256", pa.string()),
    pa.field("num_chars", pa.int32()),
    pa.field("tokens", pa.list_(pa.string())),
    pa.field("kinds", pa.list_(pa.int8())),
    pa.field("starts", pa.list_(pa.int32())),
    pa.field("ends", pa.list_(pa.int32())),
]
"""Added by the tokenize stage; null for a rejected row. `tokens` are normalised."""

BOW = pa.schema([("term_ids", pa.list_(pa.int32())), ("counts", pa.list_(pa.int32()))])
"""Bag of words: ids ascending within a document; null for rejected and dropped rows."""

MARKS = (
    "dropped",
    "first_source",
    "first_position",
    "died_stage",
    "died_message",
    "encode_error_type",
    "encode_error_message",
    "classify_error_type",
    "classify_error_message",
)
"""Further columns of zipped blocks, between the inner stages."""

COUNTS = pa.schema(
    [
        ("term", pa.string()),
        ("language", pa.string()),
        ("document_frequency", pa.int64()),
        ("collection_frequency", pa.int64()),
    ]
)
"""Counts of words or phrases, a row for each term and language."""

TERMS = pa.schema(
    [
        ("term", pa.string()),
        ("document_frequency", pa.int64()),
        ("collection_frequency", pa.int64()),
        ("idf", pa.float64()),
    ]
)

TOPICS = pa.schema(
    [
        ("topic", pa.int32()),
        ("rank", pa.int32()),
        ("term", pa.string()),
        ("weight", pa.float64()),
    ]
)

ERRORS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("position", pa.int64()),
        ("stage", pa.string()),
        ("error_type", pa.string()),
        ("message", pa.string()),
    ]
)


def kept_fields(keep_columns: tuple[str, ...]) -> list[pa.Field]:
    """Fields of the input's extra columns: strings, JSON text for what is not a string."""
    return [pa.field(name, pa.string()) for name in keep_columns]


def read_schema(keep_columns: tuple[str, ...] = ()) -> pa.Schema:
    """Blocks as the readers give them."""
    return pa.schema(READ_FIELDS + kept_fields(keep_columns))


def tokens_schema(keep_columns: tuple[str, ...] = ()) -> pa.Schema:
    """Parts of the tokenize stage: one row for every read document, rejected ones included."""
    return pa.schema(READ_FIELDS + TOKEN_FIELDS + kept_fields(keep_columns))


LABEL_FIELDS = [
    pa.field("predicted_label", pa.string()),
    pa.field("predicted_label_score", pa.float32()),
]
"""Of a classifier: the class and its probability."""


def encoded_schema(dimensions: int, *, labels: bool = False) -> pa.Schema:
    """Parts of the encode stage, row-aligned with tokens; null for rejected and dropped rows.

    attention: received attention of each model token of the last layer, with its offsets.
    labels: whether classes are told, too.
    """
    return pa.schema(
        [
            ("embedding", pa.list_(pa.float32(), dimensions)),
            ("num_tokens", pa.int32()),
            ("num_chunks", pa.int32()),
            ("truncated", pa.bool_()),
            ("attention_starts", pa.list_(pa.int32())),
            ("attention_ends", pa.list_(pa.int32())),
            ("attention", pa.list_(pa.float32())),
            *(LABEL_FIELDS if labels else []),
            ("error_type", pa.string()),
            ("error_message", pa.string()),
        ]
    )


CLASSIFIED = pa.schema([*LABEL_FIELDS, ("error_type", pa.string()), ("error_message", pa.string())])
"""Parts of the classify stage, where the classifier is another model than the encoder."""


def encoded_part_schema(dimensions: int, *, labels: bool = False) -> pa.Schema:
    """encoded_schema as it is written: embeddings as plain lists.

    Arrow cannot read null rows of a fixed-size list back from Parquet (apache/arrow#35692).
    """
    schema = encoded_schema(dimensions, labels=labels)
    index = schema.get_field_index("embedding")
    return schema.set(index, pa.field("embedding", pa.list_(pa.float32())))


def documents_schema(
    dimensions: int,
    *,
    keep_text: bool = False,
    keep_columns: tuple[str, ...] = (),
    labels: bool = False,
) -> pa.Schema:
    """The published documents.

    labels: whether a classifier has told their classes.

    dimensions: of the embeddings; 0 where bert is off. The column is null then, and a fixed size
    of 0 is the one whose null rows every version of Arrow can read back from Parquet.
    """
    names = ("doc_id", "source", "language", "title", "text_sha256")
    fields = [pa.field(name, pa.string()) for name in names]
    fields += [
        pa.field(name, pa.int32())
        for name in ("num_chars", "num_terms", "num_tokens", "num_chunks")
    ]
    fields.append(pa.field("truncated", pa.bool_()))
    fields += [pa.field(name, KEYWORDS) for name in KEYWORD_COLUMNS]
    fields.append(pa.field("topics", TOPIC_WEIGHTS))
    fields.append(pa.field("embedding", pa.list_(pa.float32(), dimensions)))
    if labels:
        fields += [pa.field("label", pa.string()), pa.field("label_score", pa.float32())]
    if keep_text:
        fields.append(pa.field("text", pa.string()))
    return pa.schema(fields + kept_fields(keep_columns))
