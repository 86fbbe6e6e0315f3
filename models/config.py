"""Frozen configuration of every kernel, checked before anything is launched.

Light on purpose: no import beyond the standard library, so that `lexbeam --help`
and usage errors answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass

FEATURES = ("tfidf", "textrank", "lda", "bert")
LANGUAGES = ("zh", "en", "other")


class ConfigError(ValueError):
    """A wrong configuration value; names the option and the value.

    Attributes:
        option: the option's name in `snake_case`, without dashes.
        value: the offending value.
    """

    def __init__(self, option: str, value: object, reason: str) -> None:
        self.option = option
        self.value = value
        super().__init__(f"--{option} {value!r}: {reason}")


def require(condition: bool, option: str, value: object, reason: str) -> None:
    """Raise ConfigError naming `option` and `value` unless `condition` holds."""
    if not condition:
        raise ConfigError(option, value, reason)


def require_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    require(value in choices, option, value, f"choose one of {', '.join(choices)}")


def require_at_least(option: str, value: int, least: int) -> None:
    """Raise ConfigError unless `value` is a whole number of at least `least`."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    require(is_whole and value >= least, option, value, f"must be a whole number >= {least}")


@dataclass(frozen=True)
class TextConfig:
    """How text becomes tokens.

    Attributes:
        language: `auto`, or the language that every document is taken to be in.
        user_dict: path of a dictionary in jieba's format (`word [freq] [tag]` a line), or None.
        stopwords: path of a UTF-8 file with a stop word a line, added to ours, or None.
    """

    language: str = "auto"
    user_dict: str | None = None
    stopwords: str | None = None

    def __post_init__(self) -> None:
        require_choice("language", self.language, ("auto", "zh", "en"))


@dataclass(frozen=True)
class CountConfig:
    """Which terms the vocabulary keeps, and how their counts are weighed.

    As in scikit-learn a whole number is a count of documents and a fraction in (0, 1] a share.

    Attributes:
        min_df: terms in fewer documents are dropped.
        max_df: terms in more documents of their language are dropped.
        max_terms: of the rest, so many of the highest collection frequency are kept.
        sublinear_tf: TF-IDF takes 1 + ln(count) for the count.
    """

    min_df: int | float = 2
    max_df: int | float = 0.5
    max_terms: int = 200_000
    sublinear_tf: bool = False

    def __post_init__(self) -> None:
        for option in ("min_df", "max_df"):
            value = getattr(self, option)
            if isinstance(value, float):
                require(0.0 < value <= 1.0, option, value, "a fraction must lie in (0, 1]")
            else:
                require_at_least(option, value, 1)
        require_at_least("max_terms", self.max_terms, 1)


@dataclass(frozen=True)
class TextRankConfig:
    """The word graph of a document (Mihalcea and Tarau 2004)."""

    window_size: int = 10
    damping: float = 0.85
    tolerance: float = 1e-6
    max_iterations: int = 200

    def __post_init__(self) -> None:
        require_at_least("window_size", self.window_size, 2)
        require(0.0 < self.damping < 1.0, "damping", self.damping, "must lie in (0, 1)")
        require(self.tolerance > 0, "tolerance", self.tolerance, "must be positive")


@dataclass(frozen=True)
class LdaConfig:
    """Latent Dirichlet allocation.

    Attributes:
        num_topics: K.
        passes: passes over the corpus.
        inference: `map`, batch MAP-EM (Asuncion et al. 2009), or `vb`, batch variational Bayes
            (Blei, Ng and Jordan 2003).
        seed: of the counter-based generator of the start values.
        doc_topic_prior: alpha, the prior on a document's topics.
        topic_word_prior: eta, the prior on a topic's terms.
        fraction_bits: sums are exact in units of 2^-fraction_bits tokens; a coarser scale than 30
            is for more than 2^33 tokens.
    """

    num_topics: int = 50
    passes: int = 30
    inference: str = "map"
    seed: int = 0
    doc_topic_prior: float = 0.1
    topic_word_prior: float = 0.02
    fraction_bits: int = 30

    def __post_init__(self) -> None:
        require_at_least("num_topics", self.num_topics, 1)
        require_at_least("lda_passes", self.passes, 1)
        require_choice("lda_inference", self.inference, ("map", "vb"))
        require_at_least("seed", self.seed, 0)
        require(self.doc_topic_prior > 0, "doc_topic_prior", self.doc_topic_prior, "must be > 0")
        require(self.topic_word_prior > 0, "topic_word_prior", self.topic_word_prior, "must be > 0")
        bits = self.fraction_bits
        require(10 <= bits <= 30, "lda_fraction_bits", bits, "must lie in [10, 30]")


@dataclass(frozen=True)
class EncoderConfig:
    """How documents become embeddings.

    Attributes:
        model_id: a name of the catalogue, a local directory or a hub id.
        pooling: `auto` (as the model's own files say), `mean` or `cls`.
        max_seq_length: model tokens a window, special tokens and prefix included.
        max_batch_tokens: longest window x windows of a batch, at most; None: 1,024 on CPU,
            32,768 on GPU.
        backend, dtype, device: `auto` is resolved once, by the driver.
        long_documents: `chunk` encodes every window, `truncate` the first one only.
    """

    model_id: str = "multilingual-e5-small-q4"
    pooling: str = "auto"
    max_seq_length: int = 512
    max_batch_tokens: int | None = None
    backend: str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    long_documents: str = "chunk"

    def __post_init__(self) -> None:
        require(bool(self.model_id), "model_id", self.model_id, "must not be empty")
        require_choice("pooling", self.pooling, ("auto", "mean", "cls"))
        require_at_least("max_seq_length", self.max_seq_length, 16)
        if self.max_batch_tokens is not None:
            require_at_least("max_batch_tokens", self.max_batch_tokens, 16)
        require_choice("backend", self.backend, ("auto", "torch", "openvino"))
        require_choice("dtype", self.dtype, ("auto", "float32", "bfloat16", "float16", "int8"))
        require_choice("device", self.device, ("auto", "cpu", "cuda"))
        require_choice("long_documents", self.long_documents, ("chunk", "truncate"))
