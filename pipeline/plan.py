"""The plan of a run: written once at the start, and what every worker goes by.

It holds the sources with size and time, the splits, and the configuration with every `auto`
resolved. A run that is resumed reads it again; what would change the run's content is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from lexbeam.models import catalogue
from lexbeam.models.config import ConfigError, CountConfig, EncoderConfig, LdaConfig, TextConfig
from lexbeam.models.encoder_backend import resolve_backend
from lexbeam.models.encoder_check import check_model_files
from lexbeam.models.encoder_spec import ModelError, ModelSpec
from lexbeam.models.finetuning.config import FinetuningConfig
from lexbeam.models.keyphrase_weights import KeyphraseWeights
from lexbeam.models.pretraining.config import PretrainingConfig
from lexbeam.models.training.config import TrainingConfig
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.options import LDA_OPTIONS, JobConfig
from lexbeam.pipeline.runs import RunDir, json_bytes, read_json
from lexbeam.transforms import host_cache, splits, storage
from lexbeam.transforms.host_models import resolve_model

PLAN_VERSION = 5
# Options of the encoder that change speed, but not what comes out.
_SPEED_ONLY = ("device", "max_batch_tokens")
# Those that change what a model's states are.
_OF_VECTORS = ("max_seq_length", "long_documents", "dtype", "backend", "pooling")


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        command: `run`, `fit`, `transform`, `pretrain` or `finetune`.
        created: UTC time in ISO 8601.
        config: the job, `auto` resolved.
        layout: sources and splits.
        encoder: the model that embeds, or None where bert is off; of a training the checkpoint
            that it goes on from.
        model_source: of a `transform`, the folder of the corpus models; else None.
        lda_execution: `local` or `distributed`; changes no bit of the content.
        identity: what decides the content of the run, as JSON.
        versions: of the packages that the run was begun with.
        reuse_store: whether the run keeps what later ones can take over.
        reuse: id of the run to take over from, or None.
        keep_state: whether merged counts stay with the model.
        warm_start: folder of the corpus model whose topics the LDA starts from, or None.
        classifier: the model that tells classes, where it is another one than the encoder.
        pretraining, finetuning: of the command of that name; else None.
        training: of both; else None.
    """

    command: str
    created: str
    config: JobConfig
    layout: splits.Layout
    encoder: ModelSpec | None
    model_source: str | None
    lda_execution: str
    identity: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    reuse_store: bool = False
    reuse: str | None = None
    keep_state: bool = False
    warm_start: str | None = None
    classifier: ModelSpec | None = None
    pretraining: PretrainingConfig | None = None
    finetuning: FinetuningConfig | None = None
    training: TrainingConfig | None = None

    def model_dir(self, run: RunDir) -> str:
        """Folder of the corpus models that the run's documents are extracted with."""
        return self.model_source or run.model

    @property
    def tells_labels(self) -> bool:
        """Whether documents get classes, by the encoder or by another model."""
        is_encoder = self.encoder is not None and bool(self.encoder.labels)
        return is_encoder or self.classifier is not None

    @property
    def num_splits(self) -> int:
        """Units of work."""
        return len(self.layout.splits)

    def fingerprint(self) -> str:
        """SHA-256 of the identity."""
        return hashlib.sha256(json_bytes(self.identity)).hexdigest()

    def input_fingerprint(self) -> str:
        """SHA-256 over the sources' names, sizes and times."""
        sources = [source.to_json() for source in self.layout.sources]
        return hashlib.sha256(json_bytes(sources)).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """As written to plan.json."""
        return {
            "plan_version": PLAN_VERSION,
            "command": self.command,
            "created": self.created,
            "config": self.config.to_json(),
            "encoder": self.encoder and spec_to_json(self.encoder),
            "model_source": self.model_source,
            "lda_execution": self.lda_execution,
            "identity": self.identity,
            "versions": dict(self.versions),
            "reuse_store": self.reuse_store,
            "reuse": self.reuse,
            "keep_state": self.keep_state,
            "warm_start": self.warm_start,
            "classifier": self.classifier and spec_to_json(self.classifier),
            "pretraining": self.pretraining and asdict(self.pretraining),
            "finetuning": self.finetuning and asdict(self.finetuning),
            "training": self.training and asdict(self.training),
            **self.layout.to_json(),
        }


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    """A model's description as JSON."""
    return asdict(spec) | {"directory": str(spec.directory)}


def spec_from_json(values: Mapping[str, Any]) -> ModelSpec:
    """The inverse of spec_to_json."""
    kinds = {"directory": Path(values["directory"]), "labels": tuple(values["labels"])}
    return ModelSpec(**{**values, **kinds})


def file_sha256(option: str, path: str | None) -> str | None:
    """Hash of a dictionary's bytes; raises ConfigError naming the option where it has none."""
    if path is None:
        return None
    try:
        return hashlib.sha256(storage.read_bytes(path)).hexdigest()
    except OSError as error:
        raise ConfigError(option, path, f"cannot be read: {error}") from error


def tokenizer_fingerprint(text: TextConfig) -> str:
    """Hash of everything that decides tokens; raises ConfigError for a bad dictionary."""
    from lexbeam.models.tokens import Tokenizer

    return Tokenizer(host_cache.text_on_host(text)).fingerprint()


def identity_of(
    command: str,
    config: JobConfig,
    encoder: ModelSpec | None,
    model: str | None,
    classifier: ModelSpec | None = None,
) -> dict[str, Any]:
    """The options that change what a run contains, by name; dictionaries and models by hash."""
    values = config.to_json()
    encoder_values = {
        name: value for name, value in values["encoder"].items() if name not in _SPEED_ONLY
    }
    identity: dict[str, Any] = {"command": command, "model": model}
    identity |= identity_of_text(config) | values["counts"]
    if "lda" in config.features:
        lda = dict(values["lda"])
        identity |= {option: lda.pop(name) for option, name in LDA_OPTIONS.items()} | lda
    if encoder is not None:
        # The weights say which model it is, whatever it is called and wherever it lies.
        del encoder_values["model_id"]
        identity |= encoder_values | {
            "model_fingerprint": encoder.fingerprint,
            "document_prefix": encoder.document_prefix,
            "labels": bool(encoder.labels),
        }
    if classifier is not None:
        identity |= _classifier_identity(values["classifier"], classifier)
    names = ("features", "top_k", "keep_text", "keyword_weights")
    identity |= {name: values[name] for name in names}
    return dict(json.loads(json.dumps(identity)))


def _classifier_identity(values: Mapping[str, Any], spec: ModelSpec) -> dict[str, Any]:
    found = {f"classifier_{name}": values[name] for name in _OF_VECTORS}
    return found | {"classifier": spec.fingerprint}


def identity_of_text(config: JobConfig) -> dict[str, Any]:
    """What decides documents and their tokens."""
    values = asdict(config.input)
    return {name: value for name, value in values.items() if name != "inputs"} | {
        "language": config.text.language,
        "user_dict": file_sha256("user_dict", config.text.user_dict),
        "stopwords": file_sha256("stopwords", config.text.stopwords),
        "tokenizer": tokenizer_fingerprint(config.text),
    }


def write_plan(run: RunDir, plan: Plan) -> bool:
    """Write plan.json; False where another process was first."""
    storage.make_parent(run.plan)
    return storage.put_if_absent(run.plan, json_bytes(plan.to_json()))


def read_plan(run: RunDir) -> Plan:
    """Read plan.json; raises UsageError where it is missing or of another version."""
    values = read_json(run.plan)
    if values.get("plan_version") != PLAN_VERSION:
        raise UsageError(f"{run.plan} is of plan version {values.get('plan_version')!r}")
    try:
        return plan_from_json(values)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{run.plan} is damaged: {type(error).__name__}: {error}") from error


def plan_from_json(values: Mapping[str, Any]) -> Plan:
    """The inverse of Plan.to_json."""
    return Plan(
        command=values["command"],
        created=values["created"],
        config=config_from_json(values["config"]),
        layout=splits.Layout.from_json(values),
        encoder=spec_from_json(values["encoder"]) if values["encoder"] else None,
        model_source=values["model_source"],
        lda_execution=values["lda_execution"],
        identity=values["identity"],
        versions=values["versions"],
        reuse_store=values["reuse_store"],
        reuse=values["reuse"],
        keep_state=values["keep_state"],
        warm_start=values["warm_start"],
        classifier=spec_from_json(values["classifier"]) if values["classifier"] else None,
        pretraining=_optional(PretrainingConfig, values.get("pretraining")),
        finetuning=_optional(FinetuningConfig, values.get("finetuning")),
        training=_optional(TrainingConfig, values.get("training")),
    )


Config = TypeVar("Config")


def _optional(kind: Callable[..., Config], values: Mapping[str, Any] | None) -> Config | None:
    return None if values is None else kind(**values)


def config_from_json(values: Mapping[str, Any]) -> JobConfig:
    """A JobConfig from its JSON."""
    return JobConfig(
        input=splits.InputConfig.from_json(values["input"]),
        text=TextConfig(**values["text"]),
        counts=CountConfig(**values["counts"]),
        lda=LdaConfig(**values["lda"]),
        encoder=EncoderConfig(**values["encoder"]),
        classifier=_optional(EncoderConfig, values.get("classifier")),
        features=tuple(values["features"]),
        top_k=values["top_k"],
        keep_text=values["keep_text"],
        keyword_weights=KeyphraseWeights.from_dict(values["keyword_weights"]),
    )


def check_same(
    run: RunDir, wanted: Plan, found: Plan, advice: str = "Choose another --run_id."
) -> None:
    """Raise UsageError naming what differs between a job and the run it would go on with."""
    names = list(dict.fromkeys([*wanted.identity, *found.identity]))
    differing = [
        f"--{name} {wanted.identity.get(name)!r} ({found.identity.get(name)!r} there)"
        for name in names
        if found.identity.get(name) != wanted.identity.get(name)
    ]
    differing += _differing_sources(wanted, found)
    if not differing and found.input_fingerprint() != wanted.input_fingerprint():
        differing.append("the inputs stand in another order, or below another common folder")
    if differing:
        raise UsageError(
            f"run {run.run_id} in {run.output} has another configuration or input: "
            + "; ".join(differing[:5])
            + f". {advice}"
        )


def _differing_sources(wanted: Plan, found: Plan) -> list[str]:
    there = {source.path: source for source in found.layout.sources}
    asked = {source.path: source for source in wanted.layout.sources}
    messages = [f"input {path} is new" for path in asked if path not in there]
    messages += [f"input {path} is gone" for path in there if path not in asked]
    messages += [
        f"input {path} has changed"
        for path, source in asked.items()
        if path in there and there[path].version != source.version
    ]
    return messages


def resolved_config(
    config: JobConfig, say: Callable[[str], None], *, gpu_elsewhere: bool = False
) -> tuple[JobConfig, ModelSpec | None]:
    """The job with the encoder's `auto` settings resolved, and its model; fetches the model.

    gpu_elsewhere: the workers have a GPU, whatever this machine has.

    Raises ConfigError or ModelError where the model or a setting cannot be had.
    """
    if "bert" not in config.features:
        return config, None
    entry = catalogue.find_entry(config.encoder.model_id)
    if entry is not None:
        catalogue.pull(entry.name, progress=say)
    spec = resolve_model(config.encoder.model_id, fetch=True)
    check_model_files(spec)
    encoder = resolve_backend(spec, config.encoder, say, gpu_elsewhere=gpu_elsewhere)
    return replace(config, encoder=encoder), spec


def with_classifier(
    config: JobConfig,
    encoder: ModelSpec | None,
    say: Callable[[str], None],
    *,
    gpu_elsewhere: bool = False,
) -> tuple[JobConfig, ModelSpec | None, ModelSpec | None]:
    """The job with its classifier resolved, the encoder and the classifier.

    Where both are the same model with the same windows, the encoder tells the classes in its own
    pass, and there is no other. Raises ConfigError where the classifier cannot be had.
    """
    if config.classifier is None:
        return config, encoder, None
    from lexbeam.models.classifier import max_seq_length_of, with_labels

    try:
        spec = with_labels(resolve_model(config.classifier.model_id, fetch=True))
        check_model_files(spec)
    except ModelError as error:
        raise ConfigError("classifier", config.classifier.model_id, str(error)) from error
    wanted = replace(config.classifier, max_seq_length=max_seq_length_of(spec))
    resolved = resolve_backend(spec, wanted, say, gpu_elsewhere=gpu_elsewhere)
    if encoder is not None and encoder.fingerprint == spec.fingerprint:
        if _reads_alike(config.encoder, resolved):
            return replace(config, classifier=resolved), replace(encoder, labels=spec.labels), None
        say(
            f"note: {spec.name} tells classes from windows of {resolved.max_seq_length} tokens and "
            f"embeds windows of {config.encoder.max_seq_length}: each document is encoded twice. "
            f"With --max_seq_length {resolved.max_seq_length} once is enough"
        )
    return replace(config, classifier=resolved), encoder, spec


def _reads_alike(encoder: EncoderConfig, classifier: EncoderConfig) -> bool:
    return all(getattr(encoder, name) == getattr(classifier, name) for name in _OF_VECTORS)
