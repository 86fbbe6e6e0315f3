"""The LDA stage where the bag of words fits one worker: all passes there, on all its cores."""

from __future__ import annotations

import time
from dataclasses import replace

import apache_beam as beam

from lexbeam.models import lda
from lexbeam.models.config import LdaConfig
from lexbeam.transforms import progress
from lexbeam.transforms.threads import kernel_threads
from lexbeam.transforms.topic_files import TopicFiles

SECONDS_BETWEEN_CHECKPOINTS = 60.0


class FitTopicsDoFn(beam.DoFn):  # type: ignore[misc]
    """Bags of words to model/lda/ and the published topics; neither for too small a corpus."""

    def __init__(self, files: TopicFiles, config: LdaConfig | None) -> None:
        self._files = files
        self._config = config

    def process(self, _: None) -> None:
        if self._config is None:
            self._files.publish(None, list, lda.CorpusSize())
            return
        bow, held_out = self._files.corpus()
        model = self._fit(self._config, bow, held_out)
        self._files.publish(model, bow, lda.corpus_size(bow))

    def _fit(self, config: LdaConfig, bow: lda.Bow, held_out: lda.BoolArray) -> lda.LdaModel | None:
        checkpoints = self._files.checkpoints
        if self._files.warm_start is not None:
            size, num_terms = lda.corpus_size(bow), self._files.num_terms()
            num_topics = lda.effective_num_topics(config.num_topics, size.num_documents, num_terms)
            if num_topics is not None:
                self._files.start_warm(replace(config, num_topics=num_topics))
        done = checkpoints.latest()
        state = checkpoints.load(done) if done else None
        if done:
            progress.report("lda", done.completed_passes)
        written = time.monotonic()

        def on_pass(state: lda.LdaState, metrics: lda.PassMetrics) -> None:
            nonlocal written
            progress.report("lda", 1)
            if time.monotonic() - written >= SECONDS_BETWEEN_CHECKPOINTS:
                checkpoints.write(state, metrics)
                written = time.monotonic()

        return lda.fit(
            bow,
            self._files.num_terms(),
            config,
            num_threads=kernel_threads(),
            held_out=held_out,
            on_pass=on_pass,
            state=state,
        )


class FitTopics(beam.PTransform):  # type: ignore[misc]
    """Fits the LDA over all bags of words (`config` None: LDA is off, no topics)."""

    def __init__(self, files: TopicFiles, config: LdaConfig | None) -> None:
        super().__init__()
        self._fit = FitTopicsDoFn(files, config)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        return pbegin | "Start" >> beam.Create([None]) | "FitTopics" >> beam.ParDo(self._fit)
