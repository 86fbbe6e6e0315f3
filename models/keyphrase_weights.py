"""Weights of the fused keywords: one object, so that a file can replace them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lexbeam.models.config import ConfigError

# The sign that each feature's weight has by what the feature means.
SIGNS = {"tfidf": 1, "tr10": 1, "att": 1, "nw": -1, "nw1": -1, "trsub": -1, "rep": 1, "pos": -1}
FEATURE_NAMES = tuple(SIGNS)
# A feature is divided by its deviation within the document, but by no less than this. Where a
# phrase first stands tells little in an abstract and much in a long text; divided by its own
# deviation it would tell as much in both.
MIN_DEVIATIONS = {name: 1.0 if name == "pos" else 0.0 for name in FEATURE_NAMES}


@dataclass(frozen=True)
class FeatureWeights:
    """Weight of each feature of a candidate phrase, all standardised within the document.

    Attributes:
        tfidf: ln(1 + tf) * idf of the phrase.
        tr10: ln of 100 times the sum of its words' TextRank scores, plus .001.
        att: ln of the attention that it receives in the last layer of the encoder, plus .01.
        nw: its number of words.
        nw1: 1 for a single word.
        trsub: highest tf of a longer candidate that contains it, divided by its own tf.
        rep: 1 where the whole corpus has it at least twice.
        pos: ln of 1 and a hundredth of the tokens before it first stands.
    """

    tfidf: float = 0.0
    tr10: float = 0.0
    att: float = 0.0
    nw: float = 0.0
    nw1: float = 0.0
    trsub: float = 0.0
    rep: float = 0.0
    pos: float = 0.0

    def __post_init__(self) -> None:
        for name, value in self.as_dict().items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not abs(value) < float("inf"):
                raise ConfigError("keyword_weights", value, f"{name} must be a finite number")

    def as_dict(self) -> dict[str, float]:
        """Weights by the features' names, in the order of `FEATURE_NAMES`."""
        return {name: getattr(self, name) for name in FEATURE_NAMES}


@dataclass(frozen=True)
class KeyphraseWeights:
    """Weights by language and by whether the document was encoded.

    The features but `pos`, and their signs, are those of a recipe that was measured on English
    abstracts (Inspec, Hulth 2003; SemEval-2017 task 10, Augenstein et al. 2017) and Chinese ones
    (the development part of CSL, Li et al. 2022). The sizes are rounded from conditional logits
    (`keyphrase_fit`) of these abstracts together with news and long technical texts whose titles
    stood for gold phrases: where the two disagree, as they do on single words and on `pos`, they
    lie between. Documents that are neither Chinese nor English take the English ones.
    """

    english: FeatureWeights = field(
        default_factory=lambda: FeatureWeights(
            tfidf=0.1, tr10=0.35, att=1.15, nw=-0.45, nw1=-0.3, pos=-0.3
        )
    )
    chinese: FeatureWeights = field(
        default_factory=lambda: FeatureWeights(
            tfidf=0.15, tr10=0.05, att=0.85, nw=-0.9, nw1=-0.5, trsub=-0.25, rep=0.25, pos=-0.4
        )
    )
    english_without_attention: FeatureWeights = field(
        default_factory=lambda: FeatureWeights(tfidf=0.5, tr10=0.4, nw=-0.1, nw1=-0.5, pos=-0.7)
    )
    chinese_without_attention: FeatureWeights = field(
        default_factory=lambda: FeatureWeights(
            tfidf=0.45, tr10=0.05, nw=-0.65, nw1=-0.55, trsub=-0.2, rep=0.2, pos=-0.75
        )
    )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> KeyphraseWeights:
        """Weights as read from a file: sets by name, each a mapping of features to numbers.

        A set that is not named keeps its default; a feature that a set does not name weighs 0.

        Raises:
            ConfigError: a set or feature is unknown, or a weight is no finite number.
        """
        sets = {entry.name for entry in fields(cls)}
        weights: dict[str, FeatureWeights] = {}
        for name, features in values.items():
            if name not in sets or not isinstance(features, Mapping):
                known = ", ".join(sorted(sets))
                raise ConfigError("keyword_weights", name, f"must be a mapping, one of {known}")
            unknown = sorted(map(str, set(features) - set(FEATURE_NAMES)))
            if unknown:
                known = ", ".join(FEATURE_NAMES)
                raise ConfigError("keyword_weights", unknown[0], f"choose features of {known}")
            weights[name] = FeatureWeights(**features)
        return cls(**weights)

    def as_dict(self) -> dict[str, dict[str, float]]:
        """What `from_dict` takes."""
        return asdict(self)


def read_weights(path: str | Path) -> KeyphraseWeights:
    """Weights from a JSON or YAML file, as `KeyphraseWeights.from_dict` takes them.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("keyword_weights", str(path), f"cannot be read: {error}") from error
    if not isinstance(values, Mapping):
        raise ConfigError("keyword_weights", str(path), "must hold a mapping of sets of weights")
    return KeyphraseWeights.from_dict(values)
