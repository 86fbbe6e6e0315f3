"""Measures a job's stages, in a process of its own: `python -m … REQUEST RESULT`.

The process carries out a small job as `lexbeam run` does, in process, and notes for each stage its
time, its largest memory, the bytes that it wrote and what went through Beam's shuffle.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

_SECONDS_BETWEEN_LOOKS = 0.02
_STRIDE = 61
_FIRST_CHARACTERS = 20_000


class PeakMemory:
    """The most memory that this process has resident while the body runs, in bytes."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        self._stop = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(_SECONDS_BETWEEN_LOOKS):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, self._process.memory_info().rss)


@contextmanager
def shuffled_records() -> Iterator[list[int]]:
    """Bytes of each record that Beam's runner in this process shuffles while the body runs."""
    from apache_beam.coders.coder_impl import create_InputStream
    from apache_beam.runners.portability.fn_api_runner.execution import GroupingBuffer

    sizes: list[int] = []
    append = GroupingBuffer.append

    def append_and_measure(self: Any, data: bytes) -> None:
        # The runner has no count of them: what goes by is cut at its records, as it does itself.
        coder, stream = self._pre_grouped_coder.get_impl(), create_InputStream(data)
        while before := stream.size():
            coder.decode_from_stream(stream, True)
            sizes.append(before - stream.size())
        append(self, data)

    GroupingBuffer.append = append_and_measure
    try:
        yield sizes
    finally:
        GroupingBuffer.append = append


class MeasuringSession:
    """Runs pipelines in this process, and notes what each stage took.

    Attributes:
        stages: by name: `peak`, `written`, `shuffled` and `largest_record` in bytes.
    """

    def __init__(self, run_path: str) -> None:
        self.stages: dict[str, dict[str, int]] = {}
        self._run_path = run_path

    def run(self, build: Any, label: str, hints: Sequence[str] = ()) -> None:
        """Run one pipeline to its end; raises where it failed."""
        from lexbeam.pipeline import launch

        before = _bytes_below(self._run_path)
        with shuffled_records() as records, PeakMemory() as peak:
            launch.run_pipeline(build, (), label)
        found = {
            "peak": peak.bytes,
            "written": _bytes_below(self._run_path) - before,
            "shuffled": sum(records),
            "largest_record": max(records, default=0),
        }
        known = self.stages.setdefault(label, dict.fromkeys(found, 0))
        for name, value in found.items():
            is_sum = name in ("written", "shuffled")
            known[name] = known[name] + value if is_sum else max(known[name], value)

    def note(self) -> str:
        """Nothing."""
        return ""


def _bytes_below(path: str) -> int:
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


def measure_job(request: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out a plan, and say what its stages took and what it found.

    Args:
        request: `plan`, as of Plan.to_json, and `output`, a folder.

    Returns:
        `stages` by name, with `seconds` beside what MeasuringSession notes, publishing among
        them; and the sizes that they follow from: `documents`, `characters`, `count_rows`,
        `terms`, `candidates`, `phrases`, `vocabulary`.
    """
    from lexbeam.pipeline import job, plan, runs
    from lexbeam.pipeline.options import RunSettings
    from lexbeam.pipeline.progress_view import ProgressView

    wanted = plan.plan_from_json(request["plan"])
    settings = RunSettings(request["output"], keep_intermediate=True, max_error_fraction=1.0)
    run = runs.RunDir(request["output"], "sample")
    plan.write_plan(run, wanted)
    view = ProgressView(quiet=True)
    session = MeasuringSession(run.path)
    began = time.monotonic()
    with PeakMemory() as peak:
        job.run_job(run, wanted, settings, view, session)
    publishing = time.monotonic() - began - sum(view.seconds.values())
    stages: dict[str, dict[str, float]] = {
        name: {"seconds": seconds, **session.stages[name]} for name, seconds in view.seconds.items()
    }
    stages["publish"] = {
        "seconds": publishing, "peak": peak.bytes, "written": 0, "shuffled": 0, "largest_record": 0,
    }  # fmt: skip
    return {"stages": stages, "sizes": _sizes(run, wanted)}


def _sizes(run: Any, wanted: Any) -> dict[str, int]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from lexbeam.pipeline.workspace import Workspace
    from lexbeam.transforms.part_files import num_rows, read_part

    work = Workspace(run, wanted)
    contents = [read_part(part, ["content"])["content"] for part in work.tokens.parts()]
    return {
        "documents": sum(len(column) for column in contents),
        "characters": sum(pc.sum(pc.utf8_length(column)).as_py() or 0 for column in contents),
        "count_rows": sum(num_rows(part) for part in work.counts.splits.parts()),
        "terms": sum(num_rows(part) for part in work.counts.words.parts()),
        "candidates": sum(num_rows(part) for part in work.counts.phrases.parts()),
        "phrases": pq.read_metadata(f"{run.model}/phrases.parquet").num_rows,
        "vocabulary": pq.read_metadata(f"{run.model}/vocabulary.parquet").num_rows,
    }


def measure_encoder(request: Mapping[str, Any]) -> dict[str, Any]:
    """Encode some documents, and say what that took.

    Args:
        request: `plan`, as of Plan.to_json, and `seconds`, about how long.

    Returns:
        `load_seconds`; `seconds`, `documents`, `characters` and `tokens` of the last call; `peak`,
        in bytes.
    """
    from lexbeam.models.encoder import cached_encoder
    from lexbeam.pipeline import plan
    from lexbeam.transforms import readers
    from lexbeam.transforms.host_models import model_on_host
    from lexbeam.transforms.threads import kernel_threads

    wanted = plan.plan_from_json(request["plan"])
    assert wanted.encoder is not None
    texts: list[str] = []
    for batch in readers.read_split(
        wanted.layout.splits[0], wanted.layout.sources, wanted.layout.config
    ):
        texts += [text for text in batch["content"].to_pylist() if text is not None]
    # Neighbours in a file are often alike: some of each are taken.
    texts = [text for begin in range(_STRIDE) for text in texts[begin::_STRIDE]]
    lengths = list(accumulate(map(len, texts)))
    with PeakMemory() as peak:
        began = time.monotonic()
        spec = model_on_host(wanted.encoder, wanted.config.encoder)
        encoder = cached_encoder(spec, wanted.config.encoder, kernel_threads())
        encoder.encode_counted(texts[:1])
        load_seconds = time.monotonic() - began
        characters, seconds = _FIRST_CHARACTERS, 0.0
        # Twice as many each time: the last and largest call counts.
        while True:
            some = texts[: max(1, bisect_right(lengths, characters))]
            began = time.monotonic()
            _, stats = encoder.encode_counted(some)
            seconds = time.monotonic() - began
            if len(some) == len(texts) or seconds > request["seconds"] / 2:
                break
            characters *= 2
    return {
        "load_seconds": load_seconds,
        "seconds": seconds,
        "documents": len(some),
        "characters": sum(map(len, some)),
        "tokens": stats.real_tokens,
        "peak": peak.bytes,
    }


def main() -> None:
    """Measure what a file asks for, into another."""
    from lexbeam.pipeline.quiet import quiet_libraries, return_memory

    return_memory()
    quiet_libraries(verbose=False)
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    measure = measure_encoder if request["what"] == "encoder" else measure_job
    Path(sys.argv[2]).write_text(json.dumps(measure(request)), encoding="utf-8")


if __name__ == "__main__":
    main()
