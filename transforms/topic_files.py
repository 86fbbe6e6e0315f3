"""What the LDA stage reads and writes, whichever way it is carried out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models import coherence, lda, schemas
from lexbeam.models.config import LdaConfig
from lexbeam.models.counts import row_offsets
from lexbeam.models.lda_model import COUNTS_FILE
from lexbeam.models.lda_warm_start import places_of_terms, topic_drift, warm_state
from lexbeam.models.vocabulary import cached_vocabulary
from lexbeam.transforms import checksums, host_cache, storage
from lexbeam.transforms.lda_checkpoints import LdaCheckpoints
from lexbeam.transforms.part_files import PartFolder, open_part, read_part, write_part

BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]

# Held out are documents whose text_sha256 is 0 modulo this: the same ones everywhere.
HELD_OUT_MODULUS = 50


def held_out_mask(text_sha256: pa.ChunkedArray) -> BoolArray:
    """(documents,) bool: whose hash is 0 modulo HELD_OUT_MODULUS; False where it is null."""
    return np.array(
        [
            value is not None and int(value, 16) % HELD_OUT_MODULUS == 0
            for value in text_sha256.to_pylist()
        ],
        dtype=np.bool_,
    )


def topic_quality(
    model: lda.LdaModel, source: lda.BowSource, num_documents: int
) -> dict[str, float | int]:
    """Number of topics and of documents they are of, mean coherence (NPMI) and diversity."""
    top = lda.top_term_ids(model, coherence.COHERENCE_TERMS)
    scores = coherence.npmi(source, top, model.num_terms)
    diverse = lda.top_term_ids(model, coherence.DIVERSITY_TERMS)
    return {
        "num_topics": model.num_topics,
        "lda_documents": num_documents,
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
        checkpoints: of the fit.
        warm_start: folder of the corpus model whose topics the fit starts from; None: anew.
    """

    bow: PartFolder
    tokens: PartFolder
    model_dir: str
    topics: PartFolder
    checkpoints: LdaCheckpoints
    warm_start: str | None = None

    @property
    def _vocabulary(self) -> str:
        return host_cache.copy_of_file(storage.join(self.model_dir, "vocabulary.parquet"))

    @property
    def size_file(self) -> str:
        """The corpus' size, as the distributed way measured it."""
        return storage.join(self.checkpoints.path, "corpus.json")

    def num_terms(self) -> int:
        """V."""
        with open_part(self._vocabulary) as part:
            return int(part.metadata.num_rows)

    def bag(self, split: int) -> lda.Bow:
        """A split's bags of words."""
        return lda.Bow.from_batch(read_part(self.bow.part(split)))

    def bags(self) -> Iterator[lda.Bow]:
        """The bags of words of one split after the other."""
        return map(self.bag, range(self.bow.num_parts))

    def held_out(self, split: int) -> BoolArray:
        """Which documents of a split may be kept out of the topics."""
        return held_out_mask(read_part(self.tokens.part(split), ["text_sha256"])["text_sha256"])

    def corpus(self) -> tuple[lda.Bow, BoolArray]:
        """All bags of words, read into arrays of the right size, and `held_out` of all."""
        rows = entries = 0
        for path in self.bow.parts():
            with open_part(path) as part:
                rows += part.metadata.num_rows
                entries += _num_entries(part.metadata)
        lengths = np.empty(rows, np.int64)
        term_ids, counts = np.empty(entries, np.int32), np.empty(entries, np.int32)
        row = entry = 0
        for bag in self.bags():
            lengths[row : row + len(bag)] = np.diff(bag.indptr)
            term_ids[entry : entry + len(bag.term_ids)] = bag.term_ids
            counts[entry : entry + len(bag.counts)] = bag.counts
            row, entry = row + len(bag), entry + len(bag.term_ids)
        held_out = [self.held_out(split) for split in range(self.tokens.num_parts)]
        bow = lda.Bow(row_offsets(lengths), term_ids[:entry], counts[:entry])
        return bow, np.concatenate(held_out)

    def start_warm(self, config: LdaConfig) -> None:
        """Write the state before the first pass from the earlier topics, if there are some.

        config: with the effective num_topics.
        """
        earlier = self._earlier_topics()
        if earlier is None or self.checkpoints.latest() is not None:
            return
        model, places = earlier
        self.checkpoints.write(warm_state(model, places, config), None)

    def _earlier_topics(self) -> tuple[lda.LdaModel, Int64Array] | None:
        """The model to start from, and where its vocabulary has the terms of now."""
        if self.warm_start is None:
            return None
        folder = storage.join(self.warm_start, "lda")
        if not storage.exists(storage.join(folder, COUNTS_FILE)):
            return None
        path = host_cache.copy_of_file(storage.join(self.warm_start, "vocabulary.parquet"))
        earlier = cached_vocabulary(path).terms
        now = cached_vocabulary(self._vocabulary).terms
        return lda.LdaModel.load(host_cache.copy_of_folder(folder)), places_of_terms(earlier, now)

    def _drift(self, model: lda.LdaModel) -> dict[str, float | int]:
        """How far the topics have moved since the earlier model: on average, and the farthest."""
        earlier = self._earlier_topics()
        if earlier is None:
            return {}
        distances = topic_drift(earlier[0], model, earlier[1])
        farthest = int(distances.argmax())
        return {
            "drift_mean": round(float(distances.mean()), 4),
            "drift_max": round(float(distances[farthest]), 4),
            "drift_max_topic": farthest,
        }

    def publish(
        self, model: lda.LdaModel | None, source: lda.BowSource, size: lda.CorpusSize
    ) -> None:
        """Write model/lda/ and the topics; no topics of a corpus that was too small."""
        topics = schemas.TOPICS.empty_table()
        quality: dict[str, float | int] = {"num_topics": 0, "lda_documents": size.num_documents}
        if model is not None:
            quality = topic_quality(model, source, size.num_documents) | self._drift(model)
            topics = lda.top_terms(model, cached_vocabulary(self._vocabulary).terms)
        self._save(model, quality)
        # The topics last: where they stand, the stage is done.
        write_part(self.topics.part(0), topics)

    def _save(self, model: lda.LdaModel | None, quality: dict[str, float | int]) -> None:
        folder = storage.join(self.model_dir, "lda")
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
                checksums.commit_file(str(Path(temporary, name)), target)


def _num_entries(metadata: pa.parquet.FileMetaData) -> int:
    """At least as many as the term ids of a part: an empty list counts as one value."""
    column = schemas.BOW.get_field_index("term_ids")
    return sum(
        metadata.row_group(group).column(column).num_values
        for group in range(metadata.num_row_groups)
    )
