"""Memory of the text stages: what grows with the number of documents, and what does not.

    python benchmarks/memory.py --input corpus.jsonl [--input more.jsonl] [--sizes 50000 400000]
        [--case resampled|short|both] [--features tfidf,textrank] [--split_size 16M]
        [--folder DIR] [--json FILE] [--check]

Two corpora are made from the inputs, by a fixed seed, in every size: `resampled` holds the inputs'
documents, drawn again and again under new ids; `short` holds distinct texts of two or three
sentences. A smaller corpus is the beginning of a larger one.

A run is planned once, and then each stage runs in a process of its own, as in a job that was
stopped after every stage and resumed. What is printed for each:

- peak: the most memory that the process had resident, as the operating system reports it at its
  end (`ru_maxrss`). Pages of files that are mapped, libraries included, count as well.
- imports: the same before the stage began.
- seconds and processor seconds of the stage itself, without the imports, and documents a second.

At the end: the last size's peak and time a document over the first size's; `--check` fails where a
stage that has to be flat is not. A small run comes first
and is not reported: it compiles the kernels, which are then read from disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

# Nothing of lexbeam is imported up here: a child's peak is never below what its parent had
# resident when it was started, so the parent has to stay small.

Document = dict[str, str]

STAGES = ("tokenize", "duplicates", "count", "merge", "vocabulary", "bow", "lda", "extract")
# How much more the last size may take than the first, of the stages whose memory has to be flat.
FLAT_STAGES = ("tokenize", "extract")
PEAK_LIMITS = {"resampled": 1.10, "short": 1.25}
TIME_LIMIT = 1.10

_WARM_UP_SIZE = 300
_SENTENCE = re.compile(r"[^。！？.!?\r\n]+[。！？.!?]?")
_MIN_SENTENCE, _MAX_SENTENCE = 8, 60
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
_MIB = 1 << 20


@dataclass(frozen=True)
class Measured:
    """One stage of one run; memory in bytes."""

    case: str
    documents: int
    splits: int
    stage: str
    peak: int
    imports: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Growth:
    """The last size over the first: of the peak, and of the times a document."""

    case: str
    stage: str
    peak: float
    seconds: float
    cpu_seconds: float


def read_documents(path: Path) -> list[Document]:
    """Text, and title where there is one, of each line of a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        values = [json.loads(line) for line in lines if line.strip()]
    return [
        {name: value[name] for name in ("title", "text") if isinstance(value.get(name), str)}
        for value in values
    ]


def contents_of(path: Path, limit: int | None = None) -> list[str]:
    """Contents of the first documents of a JSONL file: title, line break, text."""
    documents = read_documents(path)[:limit]
    return ["\n".join(filter(None, (d.get("title"), d["text"]))) for d in documents]


def resampled(inputs: Sequence[Sequence[Document]], seed: int = 0) -> Iterator[Document]:
    """Documents of all inputs, drawn with replacement, under new ids; endless."""
    draw = random.Random(seed)
    documents = list(chain.from_iterable(inputs))
    number = 0
    while documents:
        yield {"id": f"resampled-{number}", **draw.choice(documents)}
        number += 1


def short_texts(inputs: Sequence[Sequence[Document]], seed: int = 0) -> Iterator[Document]:
    """Distinct texts of two or three sentences of one input, whose language they keep.

    Ends where the inputs have given a third of the pairs that their sentences make.
    """
    draw = random.Random(seed)
    sentences = [found for found in map(sentences_of, inputs) if len(found) >= 3]
    weights = list(accumulate(map(len, sentences)))
    num_pairs = sum(len(found) * (len(found) - 1) for found in sentences)
    # Digests, since the texts of a large corpus would make the parent large.
    seen: set[bytes] = set()
    while 3 * len(seen) < num_pairs:
        (chosen,) = draw.choices(sentences, cum_weights=weights)
        text = " ".join(draw.sample(chosen, draw.choice((2, 3))))
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        if digest not in seen:
            yield {"id": f"short-{len(seen)}", "text": text}
            seen.add(digest)


def sentences_of(documents: Sequence[Document]) -> list[str]:
    """Distinct sentences of 8 to 60 characters, in the order in which they stand."""
    found = (
        sentence.strip()
        for document in documents
        for sentence in _SENTENCE.findall(document.get("text", ""))
    )
    return list(dict.fromkeys(s for s in found if _MIN_SENTENCE <= len(s) <= _MAX_SENTENCE))


CASES = {"resampled": resampled, "short": short_texts}


def write_corpus(path: Path, documents: Iterator[Document], size: int) -> None:
    """The first documents as JSONL; raises SystemExit where there are fewer."""
    written = 0
    with path.open("w", encoding="utf-8") as out:
        for document in islice(documents, size):
            out.write(json.dumps(document, ensure_ascii=False) + "\n")
            written += 1
    if written < size:
        raise SystemExit(f"the inputs give {written:,} documents of this kind, not {size:,}")


def run_child(*arguments: str, script: str = __file__) -> tuple[dict[str, Any], int]:
    """What a script reports as a child, and the child's peak in bytes."""
    command = [sys.executable, script, "--child", *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        said = child.stdout.read()
    # Not `child.wait`: only the system's own call says what this one child used.
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{arguments[0]} failed with exit code {child.returncode}, see above")
    peak = usage.ru_maxrss * _RSS_UNIT
    if peak <= own_peak():
        raise RuntimeError("the child's peak is hidden by that of this process")
    return dict(json.loads(said.splitlines()[-1])), peak


def own_peak() -> int:
    """The most memory that this process has had resident, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def plan_run(arguments: Sequence[str]) -> dict[str, Any]:
    """In a child: plan a run as `lexbeam run` does, and launch nothing."""
    from lexbeam.pipeline import job_command, options, prepare
    from lexbeam.pipeline.progress_view import ProgressView

    given, beam_args = options.parse_job_options(job_command.job_parser("run"), arguments)
    settings = prepare.with_absolute_output(options.run_settings(given, beam_args))
    view = ProgressView(quiet=True)
    plan = prepare.make_plan("run", options.job_config(given), settings, None, view)
    run, plan = prepare.claim_run(plan, settings, view)
    return {"run": run.path, "splits": plan.num_splits}


def run_stage(name: str, run_path: str) -> dict[str, Any]:
    """In a child: carry out one stage of a planned run."""
    from lexbeam.pipeline.quiet import quiet_libraries, return_memory

    return_memory()
    quiet_libraries(verbose=False)
    from lexbeam.pipeline import corpus_model, launch, runs, stages
    from lexbeam.pipeline.plan import read_plan
    from lexbeam.pipeline.workspace import Workspace
    from lexbeam.transforms import part_files

    def extract(work: Workspace) -> stages.Stage:
        has_topics = corpus_model.topic_metrics(work)["num_topics"] > 0
        return stages.extract(work, has_topics=has_topics)

    makers = (
        stages.tokenize,
        stages.drop_duplicates,
        stages.count,
        stages.merge_counts,
        stages.fit_vocabulary,
        stages.bag_of_words,
        stages.fit_topics,
        extract,
    )
    run = runs.find_run(run_path)
    work = Workspace(run, read_plan(run))
    stage = dict(zip(STAGES, makers, strict=True))[name](work)
    launch.share_cores(())
    imports, began, cpu_began = own_peak(), time.perf_counter(), time.process_time()
    for build in stage.pipelines():
        launch.run_pipeline(build, (), stage.name)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    if not stage.is_done():
        raise RuntimeError(f"stage {name} ended, but some of its files are missing")
    if name == "vocabulary":
        corpus_model.write_config(work)
    written = work.documents if name == "extract" else work.tokens
    return {
        "imports": imports,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "rows": sum(part_files.num_rows(part) for part in written.parts()),
    }


def measure(
    case: str, corpus: Path, size: int, output: Path, job_options: Sequence[str]
) -> Iterator[Measured]:
    """Plan a run and measure its stages, one after the other; each may be shown as it ends."""
    arguments = ["--input", str(corpus), "--output", str(output), *job_options]
    planned, _ = run_child("plan", *arguments)
    for stage in STAGES:
        said, peak = run_child(stage, planned["run"])
        # Rejected documents cost next to nothing: figures with such among them would mislead.
        rows = said.pop("rows")
        if rows != size:
            raise SystemExit(f"{stage} of {size:,} documents ended with {rows:,} of them")
        yield Measured(case, size, planned["splits"], stage, peak, **said)


def growths(measured: Sequence[Measured]) -> list[Growth]:
    """The last size over the first one, of every case and stage."""
    found = []
    for case, stage in dict.fromkeys((entry.case, entry.stage) for entry in measured):
        entries = [entry for entry in measured if (entry.case, entry.stage) == (case, stage)]
        first, last = entries[0], entries[-1]
        if first is last:
            continue
        times_more = last.documents / first.documents
        found.append(
            Growth(
                case=case,
                stage=stage,
                peak=last.peak / first.peak,
                seconds=last.seconds / first.seconds / times_more,
                cpu_seconds=last.cpu_seconds / first.cpu_seconds / times_more,
            )
        )
    return found


def is_flat(entry: Growth) -> bool:
    """Whether neither the peak nor the time a document grows by more than it may."""
    return entry.peak <= PEAK_LIMITS[entry.case] and entry.seconds <= TIME_LIMIT


def measured_line(entry: Measured) -> str:
    """A row of the first table."""
    return (
        f"{entry.case:<10} {entry.documents:>9,} {entry.splits:>6} {entry.stage:<10} "
        f"{entry.peak / _MIB:>8.0f} {entry.imports / _MIB:>8.0f} {entry.seconds:>9.2f} "
        f"{entry.cpu_seconds:>9.2f} {entry.documents / entry.seconds:>12,.0f}"
    )


def growth_line(entry: Growth) -> str:
    """A row of the second table."""
    verdict = ""
    if entry.stage in FLAT_STAGES:
        limits = f"(at most {PEAK_LIMITS[entry.case]} and {TIME_LIMIT})"
        verdict = f"   {'flat' if is_flat(entry) else 'NOT FLAT'} {limits}"
    return (
        f"{entry.case:<10} {entry.stage:<10} {entry.peak:>8.3f} {entry.seconds:>14.3f} "
        f"{entry.cpu_seconds:>16.3f}{verdict}"
    )


MEASURED_HEADER = (
    "case       documents splits stage      peak MiB  imports   seconds processor  documents/s"
)
GROWTH_HEADER = "case       stage        peak x  seconds/doc x  processor/doc x"


def parser_of() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, action="append", required=True, metavar="CORPUS")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 400_000], metavar="N")
    parser.add_argument("--case", choices=(*CASES, "both"), default="both")
    parser.add_argument("--features", default="tfidf,textrank", help="any but bert")
    parser.add_argument("--split_size", default="auto", help="as of lexbeam run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the corpora and runs in this folder")
    parser.add_argument("--check", action="store_true", help="exit with 1 where it is not flat")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def measure_all(options: argparse.Namespace, folder: Path) -> list[Measured]:
    """All cases and sizes; prints the first table line by line."""
    inputs = [read_documents(path) for path in options.input]
    cases = list(CASES) if options.case == "both" else [options.case]
    job_options = ["--features", options.features, "--split_size", options.split_size]
    measured: list[Measured] = []

    def run(case: str, size: int) -> Iterator[Measured]:
        # A folder of its own: what lies there from before must not be resumed.
        here = Path(tempfile.mkdtemp(prefix=f"{case}-{size}-", dir=folder))
        write_corpus(here / "corpus.jsonl", CASES[case](inputs, options.seed), size)
        yield from measure(case, here / "corpus.jsonl", size, here / "out", job_options)
        if options.folder is None:
            shutil.rmtree(here)

    for _ in run(cases[0], _WARM_UP_SIZE):
        pass
    print(MEASURED_HEADER, flush=True)
    for case in cases:
        for size in sorted(options.sizes):
            for entry in run(case, size):
                print(measured_line(entry), flush=True)
                measured.append(entry)
    return measured


def write_figures(
    options: argparse.Namespace, measured: Sequence[Measured], grown: Sequence[Growth]
) -> None:
    """Both tables, and what they are of, as JSON."""
    figures = {
        "inputs": [path.name for path in options.input],
        "features": options.features,
        "split_size": options.split_size,
        "seed": options.seed,
        "measured": [asdict(entry) for entry in measured],
        "growth": [asdict(entry) for entry in grown],
    }
    options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Measure and print the tables."""
    if sys.argv[1:2] == ["--child"]:
        step, *rest = sys.argv[2:]
        print(json.dumps(plan_run(rest) if step == "plan" else run_stage(step, rest[0])))
        return
    parser = parser_of()
    options = parser.parse_args()
    if "bert" in options.features.split(","):
        parser.error("--features: the encoder is not measured here")
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lexbeam-memory-") as temporary:
        measured = measure_all(options, options.folder or Path(temporary))
    grown = growths(measured)
    if grown:
        print(f"\n{max(options.sizes):,} documents over {min(options.sizes):,}")
        print(GROWTH_HEADER, *map(growth_line, grown), sep="\n")
    if options.json is not None:
        write_figures(options, measured, grown)
    if options.check and not all(is_flat(e) for e in grown if e.stage in FLAT_STAGES):
        sys.exit("a stage is not flat")


if __name__ == "__main__":
    main()
