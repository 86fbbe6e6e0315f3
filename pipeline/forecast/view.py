"""The forecast as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lexbeam.pipeline.forecast.laws import Scale, StageForecast
from lexbeam.pipeline.tables import count_of, definition_list, table

# Beyond so many times the sample the laws are trusted less than they look.
_FAR = 1_000


@dataclass(frozen=True)
class Report:
    """A forecast, and what it rests on.

    Attributes:
        sample_documents: that were measured.
        input_documents: of the input, about.
        input_files: of the input.
        text_bytes: UTF-8 bytes of a document's content, on average.
        measured_seconds: what measuring took.
        worker_ram: bytes of memory of a worker.
        scale: the job that is foretold.
        stages: what its stages come to, in order.
        encoder: what was measured of it; None: nothing is encoded.
        has_lda: whether topics are fitted.
    """

    sample_documents: int
    input_documents: int
    input_files: int
    text_bytes: float
    measured_seconds: float
    worker_ram: int
    scale: Scale
    stages: Sequence[StageForecast]
    encoder: Mapping[str, Any] | None
    has_lda: bool


def seconds_text(seconds: float) -> str:
    """`0.4 s`, `12 min`, `3.4 h`, `5.1 d`."""
    for unit, size, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < most * size:
            return f"{_short(seconds / size)} {unit}"
    return f"{_short(seconds / 86_400)} d"


def bytes_text(number: float) -> str:
    """`812 B`, `1.2 kB`, `35 MB`, `3.4 TB`; powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5:
            return f"{_short(number)} {unit}" if unit != "B" else f"{number:.0f} B"
        number /= 1000
    return f"{number:,.0f} PB"


def _short(number: float) -> str:
    return f"{number:.1f}" if number < 9.95 else f"{number:,.0f}"


def report_lines(report: Report) -> list[str]:
    """The report: what it rests on, a line for each stage, what to know of it."""
    scale = report.scale
    runner = f", {scale.stage_seconds:g} s a pipeline" if scale.stage_seconds else ""
    pairs = [
        (
            "input",
            f"{count_of(report.input_files, 'file')}, about "
            f"{count_of(report.input_documents, 'document')} of {report.text_bytes:,.0f} bytes",
        ),
        (
            "measured",
            f"{count_of(report.sample_documents, 'document')}, "
            f"{count_of(scale.threads, 'thread')}, in {seconds_text(report.measured_seconds)}",
        ),
        (
            "forecast",
            f"{count_of(scale.documents, 'document')} in {count_of(scale.splits, 'split')}, "
            f"{count_of(scale.workers, 'worker')} like this machine{runner}",
        ),
    ]
    rows = [_row(stage) for stage in report.stages]
    seconds = sum(stage.seconds for stage in report.stages)
    work = sum(stage.worker_seconds for stage in report.stages)
    rows.append(
        [
            "all", seconds_text(seconds), seconds_text(work), "",
            bytes_text(max(stage.memory for stage in report.stages)),
            bytes_text(sum(stage.written for stage in report.stages)),
            bytes_text(sum(stage.shuffled for stage in report.stages)),
            bytes_text(max(stage.largest_record for stage in report.stages)), "",
        ]
    )  # fmt: skip
    header = [
        "stage", "time", "of workers", "at most", "memory", "written", "shuffled", "record",
        "grows with",
    ]  # fmt: skip
    lines = table(rows, header=header, right=range(1, 8))
    return ["", *definition_list(pairs), "", *lines, "", *_notes(report)]


def _row(stage: StageForecast) -> list[str]:
    return [
        stage.stage, seconds_text(stage.seconds), seconds_text(stage.worker_seconds),
        f"{stage.parallel:,}", bytes_text(stage.memory), bytes_text(stage.written),
        bytes_text(stage.shuffled), bytes_text(stage.largest_record), stage.grows_with,
    ]  # fmt: skip


def _notes(report: Report) -> list[str]:
    scale = report.scale
    largest = max(report.stages, key=lambda stage: stage.largest_record)
    notes = [
        "time is wall time, 'of workers' the time of all that work; 'at most' so many can; memory "
        "is a worker's",
        f"the largest single record is {bytes_text(largest.largest_record)}, in {largest.stage}",
    ]
    if report.has_lda:
        way = "inside one worker" if scale.is_local else "in a pipeline for every pass"
        notes.append(f"the LDA is fitted {way}: --lda_execution and --worker_ram decide it")
    if report.encoder is not None:
        rate = report.encoder["tokens"] / report.encoder["seconds"]
        notes.append(f"the encoder makes {rate:,.0f} model tokens a second here")
    for stage in report.stages:
        if stage.memory > report.worker_ram:
            notes.append(
                f"{stage.stage} takes {bytes_text(stage.memory)} of a worker that has "
                f"{bytes_text(report.worker_ram)}"
            )
    times = scale.documents / report.sample_documents
    if times > _FAR:
        notes.append(
            f"this is {times:,.0f} times the sample: an order of magnitude, see docs/scaling.md"
        )
    if 4 * report.sample_documents < 1_000:
        notes.append("the sample is small: what is fixed hides what grows")
    return [f"- {note}" for note in notes]
