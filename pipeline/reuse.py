"""What a run may take over from an earlier one, and where that lies.

A run keeps in `reuse/` its tokens, dropped rows, counts and encoded parts, and an index of its
texts, unless `--reuse_store off`. A later run of the same output folder takes over what its own
settings would give again: tokens by the tokenizer's fingerprint, embeddings by the model's and the
encoder's settings, both by the versions of the packages that compute them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lexbeam.models.config import ConfigError
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.runs import RunDir, latest_run, read_json
from lexbeam.transforms import storage
from lexbeam.transforms.published import PublishedRun

if TYPE_CHECKING:
    from lexbeam.pipeline.options import RunSettings
    from lexbeam.pipeline.plan import Plan

LATEST, NONE = "latest", "none"
_TEXT_PACKAGES = ("lexbeam", "python", "jieba", "stopwordsiso", "textblob", "PyStemmer", "numpy")
_ENCODER_PACKAGES = ("lexbeam", "tokenizers", "transformers", "torch", "openvino", "nncf")
_ENCODER_IDENTITY = (
    "pooling", "max_seq_length", "backend", "dtype", "long_documents",
    "model_fingerprint", "document_prefix", "labels",
)  # fmt: skip
_TEXT_IDENTITY = ("tokenizer", "language")
_READ_IDENTITY = ("id_key", "text_key", "title_key", "text_lines", "id_scope", "keep_columns")
# Share of a row group that a block must want: from there on reading it is faster than tokenizing.
LEAST_SHARE_OF_TOKENS = 1 / 16


def choose_earlier(plan: Plan, settings: RunSettings, say: Callable[[str], None]) -> str | None:
    """The run to take over from, by its id; None where there is none.

    Raises ConfigError where a run is named that cannot serve.
    """
    if settings.reuse == NONE:
        return None
    try:
        run = _named_run(settings.output, settings.reuse)
        earlier = Earlier.of(run, plan)
    except (UsageError, OSError) as error:
        if settings.reuse == LATEST:
            return None
        raise ConfigError("reuse", settings.reuse, str(error)) from error
    kinds = ["tokens"] if earlier.tokens else []
    if earlier.embeddings and plan.encoder is not None and plan.command != "fit":
        kinds.append("embeddings")
    if not kinds:
        reason = f"run {run.run_id} has other settings or packages: {earlier.differing()}"
        if settings.reuse != LATEST:
            raise ConfigError("reuse", settings.reuse, reason)
        say(f"note: nothing to reuse: {reason}")
        return None
    say(f"reusing {' and '.join(kinds)} of run {run.run_id}")
    return run.run_id


def _named_run(output: str, name: str) -> RunDir:
    return latest_run(output) if name == LATEST else RunDir(output, name)


def warm_start_model(plan: Plan, settings: RunSettings, say: Callable[[str], None]) -> str | None:
    """Folder of the corpus model whose topics the LDA starts from; None: it starts anew.

    Raises ConfigError where a run is named that has no topics.
    """
    name = settings.warm_start
    if name == NONE or "lda" not in plan.config.features:
        return None
    try:
        run = _named_run(settings.output, name)
        model = read_json(run.manifest)["model_source"] or run.model
        if read_json(storage.join(model, "lda", "metrics.json"))["num_topics"] == 0:
            raise UsageError(f"run {run.run_id} has no topics")
    except (UsageError, OSError, KeyError) as error:
        if name != LATEST:
            raise ConfigError("warm_start", name, str(error)) from error
        say(f"note: no earlier topics to start from: {error}")
        return None
    say(f"the LDA starts from the topics of run {run.run_id}")
    return str(model)


@dataclass(frozen=True)
class Earlier:
    """An earlier run, as a later one sees it.

    Attributes:
        run: the earlier run.
        manifest: its manifest.
        plan: the later run's plan.
    """

    run: RunDir
    manifest: Mapping[str, Any]
    plan: Plan

    @classmethod
    def of(cls, run: RunDir, plan: Plan) -> Earlier:
        """Raises UsageError where the run is not there, not finished, or kept nothing."""
        manifest = read_json(run.manifest)
        if not storage.is_folder(run.reuse):
            raise UsageError(f"run {run.run_id} kept nothing for reuse")
        earlier = cls(run, manifest, plan)
        _ = earlier.earlier_plan
        return earlier

    @property
    def published(self) -> PublishedRun:
        """Its files."""
        return PublishedRun(self.run.path, self.run.manifest)

    @cached_property
    def earlier_plan(self) -> Plan:
        """The earlier run's plan."""
        from lexbeam.pipeline.plan import read_plan

        return read_plan(self.run)

    @property
    def tokens(self) -> bool:
        """Whether texts give the same tokens in both."""
        return not self._differing(_TEXT_IDENTITY, _TEXT_PACKAGES)

    @property
    def embeddings(self) -> bool:
        """Whether texts give the same embeddings in both."""
        has_bert = "bert" in self.manifest["identity"]["features"]
        wrote_documents = self.manifest["command"] != "fit"
        return (
            has_bert
            and wrote_documents
            and not self._differing(_ENCODER_IDENTITY, _ENCODER_PACKAGES)
        )

    def differing(self) -> str:
        """What stands against reuse, for people."""
        names = self._differing(_TEXT_IDENTITY, _TEXT_PACKAGES)
        return ", ".join(names)

    def _differing(self, identity: tuple[str, ...], packages: tuple[str, ...]) -> list[str]:
        now, then = self.plan.identity, self.manifest["identity"]
        names = [name for name in identity if now.get(name) != then.get(name)]
        here, there = self.plan.versions, self.manifest["versions"]
        return names + [name for name in packages if here.get(name) != there.get(name)]

    @cached_property
    def splits(self) -> tuple[int, ...]:
        """For each split of the later run the earlier one that is read alike, or -1."""
        now, then = self.plan, self.earlier_plan
        names = _READ_IDENTITY
        if not self.tokens or any(now.identity.get(n) != then.identity.get(n) for n in names):
            return (-1,) * now.num_splits
        died = self._sources_of_the_died()
        known = {_what_is_read(then, i): i for i in range(then.num_splits)}
        return tuple(
            -1
            if any(source.relative in died for source in now.layout.sources_of(split))
            else known.get(_what_is_read(now, split), -1)
            for split in range(now.num_splits)
        )

    def _sources_of_the_died(self) -> set[str]:
        """Files with documents that made a process die: they get another chance."""
        from lexbeam.transforms.died import PROCESS_DIED
        from lexbeam.transforms.part_files import read_part

        if PROCESS_DIED not in self.manifest["totals"]["rejected_by_reason"]:
            return set()
        found = set()
        for part in self.run.parts("errors"):
            rows = read_part(part, ["source", "error_type"]).to_pylist()
            found |= {row["source"] for row in rows if row["error_type"] == PROCESS_DIED}
        return found


def _what_is_read(plan: Plan, split: int) -> tuple[Any, ...]:
    """What decides the documents of a split, and their places."""
    sources = plan.layout.sources
    return tuple(
        (
            *(getattr(sources[piece.source], name) for name in _SOURCE_FIELDS),
            piece.start, piece.stop, piece.max_rows, piece.rows,
        )
        for piece in plan.layout.splits[split].pieces
    )  # fmt: skip


_SOURCE_FIELDS = ("relative", "size", "version", "format", "compression")
