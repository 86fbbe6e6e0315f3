"""The corpus model of a run: what `transform` needs to treat new documents alike.

model/config.json says how documents were read, tokenized and encoded; beside it lie
vocabulary.parquet, phrases.parquet, lda/ and copies of the user's dictionaries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lexbeam.models.config import ConfigError, CountConfig, EncoderConfig, LdaConfig, TextConfig
from lexbeam.models.encoder_spec import ModelSpec
from lexbeam.models.keyphrase_weights import KeyphraseWeights
from lexbeam.models.tfidf import read_text_config
from lexbeam.models.vocabulary import Vocabulary, cached_vocabulary
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.options import LDA_OPTIONS, JobConfig
from lexbeam.pipeline.plan import resolved_config, tokenizer_fingerprint
from lexbeam.pipeline.runs import RunDir, absolute, find_run, json_bytes, read_json
from lexbeam.transforms import checksums, host_cache, storage
from lexbeam.transforms.host_models import resolve_model

if TYPE_CHECKING:
    from lexbeam.pipeline.workspace import Workspace

MODEL_VERSION = 4
# Options that the corpus model decides: another value on a transform's command line is an error.
_FIXED_ENCODER = ("pooling", "max_seq_length", "backend", "dtype", "long_documents")
_FIXED_COUNTS = ("min_df", "max_df", "max_terms", "sublinear_tf")
_FIXED_LDA = {"num_topics": "num_topics", "seed": "seed"} | LDA_OPTIONS
_DICTIONARIES = ("user_dict", "stopwords")
# What config.json must have.
_ENTRIES = (
    "text", "tokenizer_fingerprint", "counts", "lda", "features", "encoder", "keyword_weights"
)  # fmt: skip
# Resolved by the machine: `auto` on the command line then means what the model has.
_RESOLVED = ("pooling", "backend", "dtype")


def copy_dictionaries(run: RunDir, text: TextConfig) -> TextConfig:
    """Copy the user's dictionaries into the run's model, and read them from there from now on."""
    copies = {}
    for option in _DICTIONARIES:
        source = getattr(text, option)
        if source is not None:
            copies[option] = storage.join(run.model, f"{option}.txt")
            storage.make_parent(copies[option])
            checksums.put_if_absent(copies[option], storage.read_bytes(source))
    return replace(text, **copies)


def write_config(work: Workspace) -> None:
    """Write model/config.json, unless it is there already."""
    plan = work.plan
    text = asdict(plan.config.text)
    text |= {option: f"{option}.txt" for option in _DICTIONARIES if text[option] is not None}
    encoder = plan.encoder and {
        **asdict(plan.config.encoder),
        "fingerprint": plan.encoder.fingerprint,
        "document_prefix": plan.encoder.document_prefix,
        "dimensions": plan.encoder.dimensions,
    }
    values = {
        "model_version": MODEL_VERSION,
        "text": text,
        "tokenizer_fingerprint": plan.identity["tokenizer"],
        "counts": asdict(plan.config.counts),
        "lda": asdict(plan.config.lda),
        "features": list(plan.config.features),
        "encoder": encoder,
        "keyword_weights": plan.config.keyword_weights.as_dict(),
    }
    path = storage.join(work.run.model, "config.json")
    storage.make_parent(path)
    checksums.put_if_absent(path, json_bytes(values))


def vocabulary_of(model_dir: str) -> Vocabulary:
    """The vocabulary of a corpus model."""
    path = storage.join(model_dir, "vocabulary.parquet")
    return cached_vocabulary(host_cache.copy_of_file(path))


def text_config_of(model_dir: str) -> TextConfig:
    """How a corpus model's documents become tokens; its dictionaries by their paths or URLs.

    Raises FileNotFoundError or ValueError where its config.json is not as expected.
    """
    text = read_text_config(Path(host_cache.copy_of_corpus_model(model_dir)))
    copies = {option: getattr(text, option) for option in _DICTIONARIES}
    return replace(
        text,
        **{
            option: copy and storage.join(model_dir, Path(copy).name)
            for option, copy in copies.items()
        },
    )


def check_topic_mass(work: Workspace) -> None:
    """Raise ConfigError where the counted tokens are too many for the LDA's 64-bit sums."""
    from lexbeam.models.lda_statistics import check_mass

    vocabulary = vocabulary_of(work.model_dir)
    num_tokens = int(vocabulary.collection_frequency.sum())
    num_entries = int(vocabulary.document_frequency.sum())
    check_mass(num_tokens, num_entries, work.plan.config.lda.fraction_bits)


def topic_metrics(work: Workspace) -> dict[str, Any]:
    """What the LDA's fit measured; `num_topics` is 0 where there is none."""
    return read_json(storage.join(work.model_dir, "lda", "metrics.json"))


def manifest_entries(work: Workspace) -> dict[str, Any]:
    """What the manifest says of the corpus model: terms, limits, topics and their quality."""
    from lexbeam.transforms.fit import LIMITS_FILE

    vocabulary = vocabulary_of(work.model_dir)
    entries = {
        "num_terms": len(vocabulary),
        "limits": read_json(storage.join(work.model_dir, LIMITS_FILE)),
        "tokenizer_fingerprint": work.plan.identity["tokenizer"],
    }
    return {"corpus_model": entries | topic_metrics(work)}


@dataclass(frozen=True)
class CorpusModel:
    """A fitted corpus model.

    Attributes:
        directory: its folder.
        values: its config.json.
        fingerprint: SHA-256 over its files.
    """

    directory: str
    values: Mapping[str, Any]
    fingerprint: str

    def job(self, config: JobConfig, given: Mapping[str, Any]) -> JobConfig:
        """The job with the model's settings; raises ConfigError where `given` has others."""
        text = text_config_of(self.directory)
        self._check_given(given)
        self._check_tokenizer(text)
        fitted = tuple(self.values["features"])
        features = config.features if "features" in given else fitted
        lacking = [feature for feature in features if feature not in fitted]
        if lacking:
            reason = f"the model in {self.directory} was fitted without"
            raise ConfigError("features", ",".join(lacking), reason)
        return replace(
            config,
            text=text,
            counts=CountConfig(**self.values["counts"]),
            lda=LdaConfig(**self.values["lda"]),
            encoder=self._encoder_config(config.encoder),
            features=features,
            keyword_weights=self._keyword_weights(config, given),
        )

    def resolved(
        self, config: JobConfig, say: Callable[[str], None], *, gpu_elsewhere: bool = False
    ) -> tuple[JobConfig, ModelSpec | None]:
        """The job with the model's encoder on this machine, or on workers with a GPU elsewhere.

        Raises UsageError where the weights here are others than those of the fit, ConfigError
        where its number format cannot be had on this machine.
        """
        config, spec = resolved_config(config, say, gpu_elsewhere=gpu_elsewhere)
        fitted = self.values["encoder"]
        if spec is not None and (spec.fingerprint, spec.document_prefix) != (
            fitted["fingerprint"],
            fitted["document_prefix"],
        ):
            raise UsageError(
                f"--model {self.directory} was fitted with another {fitted['model_id']!r} than the "
                f"one here (fingerprint {fitted['fingerprint']} there, {spec.fingerprint} here)"
            )
        return config, spec

    def _keyword_weights(self, config: JobConfig, given: Mapping[str, Any]) -> KeyphraseWeights:
        """The model's, unless the command line has others: they change nothing that was fitted."""
        if "keyword_weights" in given:
            return config.keyword_weights
        return KeyphraseWeights.from_dict(self.values["keyword_weights"])

    def _check_tokenizer(self, text: TextConfig) -> None:
        if tokenizer_fingerprint(text) != self.values["tokenizer_fingerprint"]:
            reason = "was fitted with another tokenizer: a dictionary, jieba or the stop words"
            raise ConfigError("model", self.directory, f"{reason} have changed since")

    def _encoder_config(self, wanted: EncoderConfig) -> EncoderConfig:
        fitted = self.values["encoder"]
        if fitted is None:
            return wanted
        names = {name: fitted[name] for name in (*_FIXED_ENCODER, "model_id")}
        return replace(wanted, **names)

    def _check_given(self, given: Mapping[str, Any]) -> None:
        fixed: dict[str, Any] = {"language": self.values["text"]["language"]}
        fixed |= {name: self.values["counts"][name] for name in _FIXED_COUNTS}
        fixed |= {option: self.values["lda"][name] for option, name in _FIXED_LDA.items()}
        if self.values["encoder"]:
            fixed |= {name: self.values["encoder"][name] for name in _FIXED_ENCODER}
        for option, value in fixed.items():
            wanted = given.get(option, value)
            if wanted != value and not (wanted == "auto" and option in _RESOLVED):
                raise ConfigError(option, wanted, f"the model was fitted with {value!r}")
        for option in _DICTIONARIES:
            if option in given:
                self._check_dictionary(option, given[option])
        if "model_id" in given and self.values["encoder"]:
            self._check_model_id(given["model_id"])

    def _check_model_id(self, model_id: str) -> None:
        fitted = self.values["encoder"]
        if resolve_model(model_id).fingerprint != fitted["fingerprint"]:
            reason = f"the model was fitted with {fitted['model_id']!r}"
            raise ConfigError("model_id", model_id, reason)

    def _check_dictionary(self, option: str, path: str) -> None:
        name = self.values["text"][option]
        copy = storage.read_bytes(storage.join(self.directory, name)) if name else None
        try:
            same = copy == storage.read_bytes(path)
        except OSError as error:
            raise ConfigError(option, path, f"cannot be read: {error}") from error
        if not same:
            raise ConfigError(option, path, "the model was fitted with another one")


def load_corpus_model(path: str) -> CorpusModel:
    """A corpus model by its folder, its run, or the output folder of its run.

    Raises ConfigError where there is none, or where it is unfinished or damaged.
    """
    directory = absolute(path)
    try:
        if not storage.exists(storage.join(directory, "config.json")):
            directory = find_run(directory).model
        values = read_json(storage.join(directory, "config.json"))
        _check_finished(directory)
        folder = host_cache.copy_of_corpus_model(directory)
        _check_readable(Path(folder), values)
    except (UsageError, OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("model", path, f"is no usable corpus model: {error}") from error
    return CorpusModel(directory, values, _fingerprint(folder))


def _check_finished(directory: str) -> None:
    """Raise UsageError where the model belongs to a run that has not been published."""
    run_path = directory.rpartition("/")[0]
    is_of_run = storage.exists(storage.join(run_path, "plan.json"))
    if is_of_run and not storage.exists(storage.join(run_path, "manifest.json")):
        raise UsageError(f"the fit in {run_path} is not finished")


def _check_readable(folder: Path, values: Mapping[str, Any]) -> None:
    """Open everything that a transform needs; raises ValueError or OSError naming a bad file."""
    from lexbeam.models.keyphrase_counts import PhraseCounts
    from lexbeam.models.lda_model import LdaModel

    if values["model_version"] != MODEL_VERSION:
        raise ValueError(f"model_version is {values['model_version']!r}, not {MODEL_VERSION}")
    for name in _ENTRIES:
        if name not in values:
            raise ValueError(f"config.json lacks {name!r}")
    KeyphraseWeights.from_dict(values["keyword_weights"])
    read_text_config(folder)
    Vocabulary.load(folder / "vocabulary.parquet")
    PhraseCounts.load(folder / "phrases.parquet")
    metrics = folder / "lda" / "metrics.json"
    num_topics = read_json(str(metrics)).get("num_topics")
    if num_topics is None:
        raise ValueError(f"{metrics} lacks 'num_topics'")
    if num_topics:
        LdaModel.load(folder / "lda")


def _fingerprint(directory: str) -> str:
    digest = hashlib.sha256()
    for file in storage.list_tree(directory):
        if file.path.startswith(storage.join(directory, host_cache.STATE) + "/"):
            continue
        digest.update(file.path[len(directory) :].encode())
        digest.update(storage.sha256_file(file.path).encode())
    return digest.hexdigest()
