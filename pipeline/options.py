"""Options of the command line and of `--config` files, and what they mean.

Light on purpose: `lexbeam --help` and usage errors must answer at once, so nothing heavier than
the standard library is imported here, apart from the safe YAML loader where a file asks for it.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from lexbeam.models.config import (
    FEATURES,
    ConfigError,
    CountConfig,
    EncoderConfig,
    LdaConfig,
    TextConfig,
    require,
    require_at_least,
    require_choice,
)
from lexbeam.models.keyphrase_weights import KeyphraseWeights, read_weights
from lexbeam.pipeline import log
from lexbeam.pipeline.beam_arguments import is_in_process
from lexbeam.pipeline.errors import UsageError
from lexbeam.transforms import host_cache, storage
from lexbeam.transforms.splits import InputConfig

# Options of the LDA that carry its name, and their fields of LdaConfig.
LDA_OPTIONS = {
    "lda_passes": "passes",
    "lda_inference": "inference",
    "lda_fraction_bits": "fraction_bits",
}
LDA_EXECUTIONS = ("local", "distributed")
# What a run id may be: it becomes a folder's name.
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
# A kind of GPU, or all that a resource hint can say of one.
_GPU_TYPE = re.compile(r"[a-z0-9][a-z0-9-]*|type:[a-z0-9-]+(;[a-z0-9:._-]+)*")


@dataclass(frozen=True)
class JobConfig:
    """Everything that decides what a run contains: the run's identity."""

    input: InputConfig
    text: TextConfig = field(default_factory=TextConfig)
    counts: CountConfig = field(default_factory=CountConfig)
    lda: LdaConfig = field(default_factory=LdaConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    classifier: EncoderConfig | None = None
    features: tuple[str, ...] = FEATURES
    top_k: int = 20
    keep_text: bool = False
    keyword_weights: KeyphraseWeights = field(default_factory=KeyphraseWeights)

    def __post_init__(self) -> None:
        for feature in self.features:
            require(feature in FEATURES, "features", feature, f"choose from {','.join(FEATURES)}")
        require_at_least("top_k", self.top_k, 1)
        if self.classifier is not None:
            for name in ("label", "label_score"):
                reason = "is a column of --classifier; rename the field"
                require(name not in self.input.keep_columns, "keep_columns", name, reason)

    def to_json(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)


@dataclass(frozen=True)
class RunSettings:
    """How a run is carried out; no part of its identity.

    Attributes:
        output: the folder or URL that holds `runs/`.
        run_id: the run's name; None: resume this job's unfinished run, else a new UTC time.
        split_size: bytes a split, or `auto`.
        lda_execution: `local`, all passes of the LDA in one worker; `distributed`, a pipeline a
            pass; `auto`, local where it fits a worker.
        worker_ram: bytes of memory that a worker has, or `auto`.
        max_error_fraction: more rejected documents than max(10, fraction x documents) fail the run.
        keep_intermediate: leave the parts of inner stages in the run's folder.
        reuse: the run to take over from: `latest`, `none` or the id of a run of the output folder.
        reuse_store: `on` or `off`: keep what later runs can take over.
        keep_state: keep what the next fit can add to and take away from.
        warm_start: the run whose topics the LDA starts from: `latest`, `none` or an id.
        stall_timeout: seconds without progress after which the job is taken to hang; 0: never.
        log_format: `text` or `json`, of what is said on stderr.
        metrics_file: gets how the job went, for Prometheus; None: no file.
        quiet: no progress and no summary.
        verbose: also log what the libraries below say.
        gpu_type: the GPU of the workers that encode, which are elsewhere; None: they have none.
        beam_args: options that go to Beam unchanged.
    """

    output: str
    run_id: str | None = None
    split_size: str | int = "auto"
    lda_execution: str = "auto"
    worker_ram: str | int = "auto"
    max_error_fraction: float = 0.01
    keep_intermediate: bool = False
    reuse: str = "latest"
    reuse_store: str = "on"
    keep_state: bool = False
    warm_start: str = "none"
    stall_timeout: int = 3600
    log_format: str = "text"
    metrics_file: str | None = None
    quiet: bool = False
    verbose: bool = False
    gpu_type: str | None = None
    beam_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.output), "output", self.output, "must not be empty")
        if self.run_id is not None:
            check_run_id(self.run_id)
        fraction = self.max_error_fraction
        require(0.0 <= fraction <= 1.0, "max_error_fraction", fraction, "must lie in [0, 1]")
        for option in ("reuse", "warm_start"):
            if getattr(self, option) not in ("latest", "none"):
                check_run_id(getattr(self, option), option)
        reason = "needs --reuse_store on: what is taken away must be known"
        require(not self.keep_state or self.reuse_store == "on", "keep_state", True, reason)
        require_choice("reuse_store", self.reuse_store, ("on", "off"))
        require_choice("log_format", self.log_format, log.FORMATS)
        require_choice("lda_execution", self.lda_execution, ("auto", *LDA_EXECUTIONS))
        require_at_least("stall_timeout", self.stall_timeout, 0)
        for option in ("split_size", "worker_ram"):
            value = getattr(self, option)
            if value != "auto":
                require_at_least(option, int(value), 1)
        if self.gpu_type is not None:
            reason = "use the GPU's name, as nvidia-l4, or a whole hint, as type:nvidia-l4;count:1"
            require(bool(_GPU_TYPE.fullmatch(self.gpu_type)), "gpu_type", self.gpu_type, reason)
            reason = "is for workers elsewhere; in process --device cuda takes this machine's"
            elsewhere = not is_in_process(self.beam_args)
            require(elsewhere, "gpu_type", self.gpu_type, reason)

    def encoder_hints(self) -> tuple[str, ...]:
        """What the workers of the encode stage must have, as Beam's resource hints.

        One GPU a worker: each has one process that encodes, with one model.
        """
        hints = []
        if self.gpu_type is not None:
            is_whole = self.gpu_type.startswith("type:")
            gpu = f"type:{self.gpu_type};count:1;install-nvidia-driver"
            hints.append(f"accelerator={self.gpu_type if is_whole else gpu}")
        if self.worker_ram != "auto" and not is_in_process(self.beam_args):
            hints.append(f"min_ram={self.worker_ram}B")
        return tuple(hints)


def check_run_id(run_id: str, option: str = "run_id") -> None:
    """Raise ConfigError unless the id can be the name of one folder."""
    reason = "use letters, digits, '.', '_', '+' and '-', beginning with a letter or digit"
    require(bool(_RUN_ID.fullmatch(run_id)) and ".." not in run_id, option, run_id, reason)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def number(text: str) -> int | float:
    """A whole number as int, anything else as float."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def bytes_or_auto(text: str) -> str | int:
    """`auto`, or bytes with an optional suffix K, M or G (powers of 1,024)."""
    if text == "auto":
        return text
    match = re.fullmatch(r"(\d+)([KMG]?)", text.upper())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'auto' nor bytes such as 16M")
    return int(match[1]) << 10 * " KMG".index(match[2] or " ")


def comma_list(text: str) -> tuple[str, ...]:
    """Names between commas, each once, in the order given."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def add_input_options(parser: argparse.ArgumentParser, *, kept: bool = True) -> None:
    """Where documents come from, and what of them is `kept` beside the features."""
    group = parser.add_argument_group("input")
    add = group.add_argument
    add(
        "--input",
        nargs="+",
        action="extend",
        metavar="GLOB",
        help="files, folders or globs, local or URLs; may be repeated",
    )
    add("--id_key", metavar="KEY", help="field with a document's id (default: id)")
    add("--text_key", metavar="KEY", help="field with its text (default: text)")
    add(
        "--title_key",
        metavar="KEY",
        help="field with its title, where there is one (default: title)",
    )
    add(
        "--id_scope",
        choices=("corpus", "file"),
        help="file: ids are unique within a file only, and get its name as prefix",
    )
    add(
        "--text_lines",
        action="store_true",
        help="a .txt file holds a document a line, not one document",
    )
    add("--limit", type=int, metavar="N", help="only the first N documents")
    if kept:
        add(
            "--keep_columns",
            type=comma_list,
            metavar="A,B",
            help="further fields of the input to carry into the output",
        )
        add("--keep_text", action="store_true", help="write the documents' text too")


def add_segmenter_options(group: argparse._ArgumentGroup) -> None:
    """How text becomes words."""
    add = group.add_argument
    add(
        "--language",
        choices=("auto", "zh", "en"),
        help="language of every document (default: auto, each by itself)",
    )
    add("--user_dict", metavar="FILE", help="more words, in jieba's dictionary format")


def add_corpus_options(parser: argparse.ArgumentParser) -> None:
    """What is counted and fitted."""
    group = parser.add_argument_group("tokens, vocabulary and topics")
    add_segmenter_options(group)
    add = group.add_argument
    add("--stopwords", metavar="FILE", help="more stop words, one a line")
    add(
        "--min_df",
        type=number,
        metavar="N",
        help="drop terms in fewer documents; a fraction is a share (default: 2)",
    )
    add(
        "--max_df",
        type=number,
        metavar="X",
        help="drop terms in more of their language's documents (default: 0.5)",
    )
    add(
        "--max_terms",
        type=int,
        metavar="N",
        help="keep so many of the most frequent terms (default: 200000)",
    )
    add(
        "--sublinear_tf",
        action="store_true",
        help="TF-IDF takes 1 + ln(count) for the count of a term in a document",
    )
    add("--num_topics", type=int, metavar="K", help="topics of the LDA (default: 50)")
    add("--lda_passes", type=int, metavar="N", help="passes over the corpus (default: 30)")
    add(
        "--lda_inference",
        choices=("map", "vb"),
        help="map: MAP-EM; vb: variational Bayes, as scikit-learn's (default: map)",
    )
    add(
        "--lda_fraction_bits",
        type=int,
        metavar="N",
        help="the LDA adds up units of 2^-N tokens, exactly (default: 30)",
    )
    add("--seed", type=int, metavar="N", help="of the LDA's start (default: 0)")


def add_feature_options(parser: argparse.ArgumentParser) -> None:
    """What every document gets."""
    group = parser.add_argument_group("features and encoder")
    add = group.add_argument
    add(
        "--features",
        type=comma_list,
        metavar="A,B",
        help=f"any of {','.join(FEATURES)} (default: all)",
    )
    add("--top_k", type=int, metavar="N", help="keywords in each list (default: 20)")
    add(
        "--keyword_weights",
        metavar="FILE",
        help="weights of the fused keywords, as 'lexbeam evaluate --fit_weights' writes them",
    )
    add(
        "--model_id",
        metavar="NAME",
        help="a name of 'lexbeam models list', a folder or its URL, or a hub id",
    )
    add("--pooling", choices=("auto", "mean", "cls"), help="default: auto, as the model says")
    add("--max_seq_length", type=int, metavar="N", help="model tokens a window (default: 512)")
    add(
        "--backend",
        choices=("auto", "torch", "openvino"),
        help="default: auto, the fastest that is exact enough",
    )
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16", "int8"), help="default: auto")
    add(
        "--long_documents",
        choices=("chunk", "truncate"),
        help="encode every window, or the first one only (default: chunk)",
    )


def add_classifier_option(parser: argparse.ArgumentParser) -> None:
    """Of jobs that write documents."""
    parser.add_argument_group("classes").add_argument(
        "--classifier",
        metavar="MODEL",
        help="a model of 'lexbeam finetune --task classify': adds label and label_score",
    )


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """What the encoder runs on; changes the speed alone."""
    group = parser.add_argument_group("the encoder's device")
    add = group.add_argument
    add(
        "--max_batch_tokens",
        type=int,
        metavar="N",
        help="model tokens a batch (default: 1024 on CPU, 32768 on GPU)",
    )
    add("--device", choices=("auto", "cpu", "cuda"), help="default: auto")
    add(
        "--gpu_type",
        metavar="TYPE",
        help="workers elsewhere encode on such a GPU, as nvidia-l4: asks Dataflow for it, and "
        "resolves auto for CUDA whatever this machine has",
    )


def add_work_options(group: argparse._ArgumentGroup) -> None:
    """How the work is cut, and what a worker has."""
    add = group.add_argument
    add_split_size(group)
    add(
        "--lda_execution",
        choices=("auto", *LDA_EXECUTIONS),
        help="all passes in one worker, or a pipeline a pass (default: auto, local where it fits)",
    )
    add(
        "--worker_ram",
        type=bytes_or_auto,
        metavar="BYTES",
        help="memory of a worker, as 16G (default: auto, this machine's; on a cluster 4G); "
        "Dataflow is asked for what is given where documents are encoded",
    )


def add_split_size(group: argparse._ArgumentGroup) -> None:
    """How the input is cut."""
    group.add_argument(
        "--split_size",
        type=bytes_or_auto,
        metavar="BYTES",
        help="input bytes a unit of work, as 16M (default: auto)",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """How the job is carried out."""
    group = parser.add_argument_group("the run")
    add = group.add_argument
    add("--output", metavar="DIR", help="folder or URL that gets runs/RUN_ID and latest.json")
    add("--run_id", metavar="NAME", help="name of the run (default: the UTC time)")
    add_work_options(group)
    add(
        "--reuse",
        metavar="RUN",
        help="take over from an earlier run what it has computed: latest, none or a run's id "
        "(default: latest)",
    )
    add(
        "--reuse_store",
        choices=("on", "off"),
        help="keep tokens, counts and embeddings for later runs (default: on)",
    )
    add(
        "--keep_state",
        action="store_true",
        help="keep unpruned counts with the model: the next fit adds and subtracts what differs",
    )
    add(
        "--warm_start",
        metavar="RUN",
        help="start the LDA from the topics of an earlier run, whose ids stay: latest, none or a "
        "run's id (default: none)",
    )
    add_common_options(group)


def add_common_options(group: argparse._ArgumentGroup) -> None:
    """What every job has."""
    add = group.add_argument
    add(
        "--max_error_fraction",
        type=float,
        metavar="X",
        help="fail when more documents are rejected (default: 0.01, and at least 10 documents)",
    )
    add("--keep_intermediate", action="store_true", help="keep the parts of inner stages")
    add(
        "--stall_timeout",
        type=int,
        metavar="SECONDS",
        help="start the job again when it makes no progress for so long; 0: never (default: 3600)",
    )
    add(
        "--config",
        metavar="FILE",
        help="YAML file with any of these options; the command line wins",
    )
    add("--log_format", choices=log.FORMATS, help="lines on stderr (default: text)")
    add(
        "--metrics_file",
        metavar="FILE.prom",
        help="write how the job went, for the textfile collector of Prometheus",
    )
    add("--quiet", action="store_true", help="no progress and no summary")
    add("--verbose", action="store_true", help="more of what happens, on stderr")


def normalise_flags(arguments: Sequence[str]) -> list[str]:
    """`--kebab-case` option names as `--snake_case`; values stay as they are."""
    normalised = []
    for argument in arguments:
        if argument.startswith("--") and len(argument) > 2:
            name, equals, value = argument[2:].partition("=")
            argument = f"--{name.replace('-', '_')}{equals}{value}"
        normalised.append(argument)
    return normalised


def wanted_log_format(arguments: Sequence[str]) -> str:
    """What `--log_format` on the command line says, before anything else is looked at."""
    found = "text"
    for option, value in pairwise([*normalise_flags(arguments), ""]):
        if option == "--log_format":
            found = value
        elif option.startswith("--log_format="):
            found = option.partition("=")[2]
    return found if found in log.FORMATS else "text"


def parse_job_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Options that were given, by name, and what goes to Beam.

    `parser` has argument_default=SUPPRESS, so that an option that was not given is not there.
    Raises UsageError for an option that neither lexbeam nor Beam knows.
    """
    given, beam_args = parser.parse_known_args(normalise_flags(arguments))
    options = vars(given)
    if "config" in options:
        file_options, file_beam_args = _read_config(parser, options.pop("config"))
        options = file_options | options
        beam_args = file_beam_args + beam_args
    check_beam_args(beam_args)
    return options, tuple(beam_args)


def _read_config(parser: argparse.ArgumentParser, path: str) -> tuple[dict[str, Any], list[str]]:
    """A YAML file's options, by way of the command line's own parser."""
    import yaml

    try:
        values = yaml.safe_load(storage.read_bytes(path).decode())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("config", path, f"cannot be read: {error}") from error
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise ConfigError("config", path, "must hold a mapping of options to values")
    arguments = []
    for name, value in values.items():
        if name == "config":
            raise ConfigError("config", path, "may not name another configuration")
        arguments += _as_arguments(str(name), value, path)
    try:
        given, beam_args = parser.parse_known_args(normalise_flags(arguments))
    except UsageError as error:
        raise ConfigError("config", path, str(error)) from error
    return vars(given), beam_args


def _as_arguments(name: str, value: Any, path: str) -> list[str]:
    if isinstance(value, Mapping):
        raise ConfigError("config", path, f"{name}: a value must be plain or a list")
    if isinstance(value, list):
        if name.replace("-", "_") in ("features", "keep_columns"):
            return [f"--{name}={','.join(map(str, value))}"]
        return [f"--{name}={item}" for item in value]
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    return [] if value is None else [f"--{name}={value}"]


def known_beam_flags() -> frozenset[str]:
    """Names of Beam's own options, read from its source text: importing Beam takes seconds."""
    spec = importlib.util.find_spec("apache_beam")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("apache-beam is not installed")
    source = Path(spec.submodule_search_locations[0], "options", "pipeline_options.py")
    return frozenset(re.findall(r"['\"]--([A-Za-z_0-9]+)['\"]", source.read_text(encoding="utf-8")))


def check_beam_args(beam_args: Sequence[str]) -> None:
    """Raise UsageError for an option that Beam does not know either, or a stray word."""
    if not beam_args:
        return
    known = known_beam_flags()
    expects_value = False
    for argument in beam_args:
        if not argument.startswith("--"):
            if not expects_value:
                raise UsageError(f"unexpected argument {argument!r}")
            expects_value = False
            continue
        name = argument[2:].partition("=")[0]
        if name not in known:
            raise UsageError(f"unknown option --{name}: neither lexbeam nor Beam knows it")
        expects_value = "=" not in argument


def pick(options: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Of the given options those that `names` maps to fields of a dataclass."""
    return {field_: options[option] for option, field_ in names.items() if option in options}


def same(*names: str) -> dict[str, str]:
    """For `pick`: options that are called as their fields are."""
    return {name: name for name in names}


def _keyword_weights(path: str | None) -> KeyphraseWeights:
    if path is None:
        return KeyphraseWeights()
    try:
        return read_weights(host_cache.copy_of_file(path))
    except OSError as error:
        raise ConfigError("keyword_weights", path, f"cannot be read: {error}") from error


def input_config(options: Mapping[str, Any]) -> InputConfig:
    """Raises ConfigError where a value is wrong, UsageError where --input is missing."""
    if not options.get("input"):
        raise UsageError("--input is required: a file, a folder or a glob")
    names = same(
        "id_key", "text_key", "title_key", "id_scope", "text_lines", "keep_columns", "label_key",
        "pair_key", "title_apart", "limit",
    )  # fmt: skip
    return InputConfig(inputs=tuple(options["input"]), **pick(options, names))


def job_config(options: Mapping[str, Any]) -> JobConfig:
    """Raises ConfigError where a value is wrong, UsageError where --input is missing."""
    count_names = same("min_df", "max_df", "max_terms", "sublinear_tf")
    lda_names = same("num_topics", "seed") | LDA_OPTIONS
    encoder_names = same(
        "model_id", "pooling", "max_seq_length", "max_batch_tokens",
        "backend", "dtype", "device", "long_documents",
    )  # fmt: skip
    given = {name for name in FEATURES if name in options.get("features", FEATURES)}
    unknown = tuple(set(options.get("features", ())) - set(FEATURES))
    features = tuple(name for name in FEATURES if name in given) + unknown
    require(bool(features), "features", "", f"name at least one of {','.join(FEATURES)}")
    return JobConfig(
        input=input_config(options),
        text=TextConfig(**pick(options, same("language", "user_dict", "stopwords"))),
        counts=CountConfig(**pick(options, count_names)),
        lda=LdaConfig(**pick(options, lda_names)),
        encoder=EncoderConfig(**pick(options, encoder_names)),
        classifier=_classifier(options),
        features=features,
        keyword_weights=_keyword_weights(options.get("keyword_weights")),
        **pick(options, same("top_k", "keep_text")),
    )


def _classifier(options: Mapping[str, Any]) -> EncoderConfig | None:
    """How the classifier runs: as the encoder does, apart from what its own files say."""
    if "classifier" not in options:
        return None
    require(bool(options["classifier"]), "classifier", "", "must not be empty")
    names = same("max_batch_tokens", "backend", "dtype", "device", "long_documents")
    return EncoderConfig(model_id=options["classifier"], **pick(options, names))


def run_settings(options: Mapping[str, Any], beam_args: tuple[str, ...]) -> RunSettings:
    """Raises ConfigError where a value is wrong, UsageError where --output is missing."""
    if not options.get("output"):
        raise UsageError("--output is required: the folder that gets runs/RUN_ID")
    names = same(
        "output", "run_id", "split_size", "lda_execution", "worker_ram",
        "max_error_fraction", "keep_intermediate", "reuse", "reuse_store",
        "keep_state", "warm_start", "stall_timeout",
        "log_format", "metrics_file", "quiet", "verbose", "gpu_type",
    )  # fmt: skip
    return RunSettings(**pick(options, names), beam_args=beam_args)
