"""The LDA stage: all passes inside one worker, on all its cores."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models import coherence, lda, schemas
from lexbeam.models.config import LdaConfig
from lexbeam.models.vocabulary import cached_vocabulary
from lexbeam.transforms import progress, storage
from lexbeam.transforms.part_files import PartFolder, read_part, write_part
from lexbeam.transforms.threads import kernel_threads

# Held out are documents whose text_sha256 is 0 modulo this: the same ones everywhere.
HELD_OUT_MODULUS = 50


def held_out_mask(text_sha256: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """(documents,) bool: whose hash is 0 modulo HELD_OUT_MODULUS; False where it is null."""
    return np.array(
        [
            value is not None and int(value, 16) % HELD_OUT_MODULUS == 0
            for value in text_sha256.to_pylist()
        ],
        dtype=np.bool_,
    )


def topic_quality(model: lda.LdaModel, bow: lda.Bow) -> dict[str, float | int]:
    """Number of topics, their mean coherence (NPMI over this corpus) and diversity."""
    top = lda.top_term_ids(model, coherence.COHERENCE_TERMS)
    scores = coherence.npmi(bow, top, model.num_terms)
    diverse = lda.top_term_ids(model, coherence.DIVERSITY_TERMS)
    return {
        "num_topics": model.num_topics,
        "lda_passes": model.passes,
        "coherence_npmi": round(float(scores.mean()), 4),
        "topic_diversity": round(coherence.diversity(diverse), 4),
    }


@dataclass(frozen=True)
class TopicFiles:
    """What the fit reads and writes.

    Attributes:
        bow: bags of words.
        tokens: their documents' hashes.
        model_dir: folder of the corpus models; gets lda/.
        topics: the published topics, one part.
    """

    bow: PartFolder
    tokens: PartFolder
    model_dir: str
    topics: PartFolder


class FitTopicsDoFn(beam.DoFn):  # type: ignore[misc]
    """Bags of words to model/lda/ and the published topics; neither for too small a corpus."""

    def __init__(self, files: TopicFiles, config: LdaConfig | None) -> None:
        self._files = files
        self._config = config

    def process(self, _: None) -> None:
        vocabulary = cached_vocabulary(storage.join(self._files.model_dir, "vocabulary.parquet"))
        topics = schemas.TOPICS.empty_table()
        quality: dict[str, float | int] = {"num_topics": 0}
        model = None
        if self._config is not None and len(vocabulary):
            model, quality = self._fit(self._config, len(vocabulary))
        if model is not None:
            topics = lda.top_terms(model, vocabulary.terms)
        self._save(model, quality)
        # The topics last: where they stand, the stage is done.
        write_part(self._files.topics.part(0), topics)

    def _fit(
        self, config: LdaConfig, num_terms: int
    ) -> tuple[lda.LdaModel | None, dict[str, float | int]]:
        parts = [lda.Bow.from_batch(read_part(path)) for path in self._files.bow.parts()]
        bow = lda.Bow.concatenate(parts)
        hashes = [
            read_part(path, ["text_sha256"])["text_sha256"] for path in self._files.tokens.parts()
        ]
        held_out = np.concatenate([held_out_mask(column) for column in hashes])
        model = lda.fit(
            bow,
            num_terms,
            config,
            num_threads=kernel_threads(),
            held_out=held_out,
            on_pass=lambda state, metrics: progress.report("lda", 1),
        )
        return model, {"num_topics": 0} if model is None else topic_quality(model, bow)

    def _save(self, model: lda.LdaModel | None, quality: dict[str, float | int]) -> None:
        folder = storage.join(self._files.model_dir, "lda")
        with tempfile.TemporaryDirectory(prefix="lexbeam-lda-") as temporary:
            if model is not None:
                model.save(temporary)
            text = json.dumps(quality, indent=2, sort_keys=True) + "\n"
            Path(temporary, "metrics.json").write_text(text, encoding="utf-8")
            # metrics.json, which every fit writes, comes last: where it stands, the fit is whole.
            names = sorted(path.name for path in Path(temporary).iterdir())
            for name in sorted(names, key=lambda name: name == "metrics.json"):
                target = storage.join(folder, name)
                storage.make_parent(target)
                storage.commit_file(str(Path(temporary, name)), target)


class FitTopics(beam.PTransform):  # type: ignore[misc]
    """Fits the LDA over all bags of words (`config` None: LDA is off, no topics)."""

    def __init__(self, files: TopicFiles, config: LdaConfig | None) -> None:
        super().__init__()
        self._fit = FitTopicsDoFn(files, config)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return pbegin | "Start" >> beam.Create([None]) | "FitTopics" >> beam.ParDo(self._fit)
