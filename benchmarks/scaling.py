"""One worker beside two: how much faster each stage is.

    python benchmarks/scaling.py --input corpus.jsonl [--input more.jsonl] [--documents 50000]
        [--num_topics 400] [--lda_passes 3] [--runs 3] [--json FILE] [--check]

A corpus of so many documents is drawn from the inputs by a fixed seed. The same job is carried out
by one worker process on one core, and by two on two cores (`--direct_running_mode
multi_processing`; a worker has one thread), and so is a job of a few documents, whose time is taken
for what is fixed: starting processes, importing, loading. The LDA is fitted in a pipeline for each
pass, which is how several workers share it.

Printed are the medians of the runs in turn: seconds of each stage, without what is fixed, and the
ratio. Outputs must be the same. `--check` fails where a stage of the text, or the LDA, is less than
1.8 times as fast with two workers. Needs Linux and two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memory import read_documents, resampled, write_corpus

# Which work on each split by itself, and the LDA.
CHECKED = ("tokenize", "count", "bow", "lda", "extract")
WANTED = 1.8
_FEW_DOCUMENTS = 64


@dataclass(frozen=True)
class Scaled:
    """A stage with one and with two workers; seconds without what is fixed."""

    stage: str
    fixed: float
    one: float
    two: float

    @property
    def ratio(self) -> float:
        """How many times as fast two are."""
        return self.one / self.two if self.two > 0 else float("nan")


def run_job(corpus: Path, output: Path, workers: int, options: Sequence[str]) -> dict[str, Any]:
    """The manifest of a job on so many cores and workers."""
    cores = sorted(os.sched_getaffinity(0))[:workers]
    command = [
        sys.executable, "-m", "lexbeam.pipeline.cli", "run", "--quiet", "--input", str(corpus),
        "--output", str(output), "--run_id", "scaling", "--reuse_store", "off",
        "--direct_running_mode", "multi_processing", "--direct_num_workers", str(workers), *options,
    ]  # fmt: skip
    subprocess.run(command, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    manifest = json.loads((output / "runs" / "scaling" / "manifest.json").read_text())
    return dict(manifest)


def seconds_of(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of each stage."""
    return {entry["stage"]: entry["seconds"] for entry in manifest["stages"]}


def content_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Checksums of what was published."""
    return {e["path"]: e["sha256"] for e in manifest["files"] if e["path"] != "plan.json"}


def scaled(
    few: Sequence[Mapping[str, float]],
    one: Sequence[Mapping[str, float]],
    two: Sequence[Mapping[str, float]],
) -> list[Scaled]:
    """Medians of several runs, stage by stage."""

    def median(runs: Sequence[Mapping[str, float]], stage: str) -> float:
        return statistics.median(run[stage] for run in runs)

    found = []
    for stage in one[0]:
        fixed = median(few, stage)
        found.append(Scaled(stage, fixed, median(one, stage) - fixed, median(two, stage) - fixed))
    return found


def lines(found: Sequence[Scaled]) -> list[str]:
    """The table."""
    head = f"{'stage':<12} {'fixed':>8} {'1 worker':>10} {'2 workers':>10} {'ratio':>7}"
    rows = [
        f"{each.stage:<12} {each.fixed:>8.2f} {each.one:>10.2f} {each.two:>10.2f} "
        f"{each.ratio:>7.2f}"
        for each in found
    ]
    return [head, *rows]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, action="append", required=True, metavar="CORPUS")
    parser.add_argument("--documents", type=int, default=50_000, metavar="N")
    parser.add_argument("--num_topics", type=int, default=400, metavar="K")
    parser.add_argument("--lda_passes", type=int, default=3, metavar="N")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--check", action="store_true", help=f"fail below {WANTED}")
    asked = parser.parse_args()
    options = [
        "--features", "tfidf,textrank,lda", "--split_size", "4M", "--lda_execution", "distributed",
        "--num_topics", str(asked.num_topics), "--lda_passes", str(asked.lda_passes),
    ]  # fmt: skip
    inputs = [read_documents(path) for path in asked.input]
    with tempfile.TemporaryDirectory(prefix="lexbeam-scaling-") as temporary:
        folder = Path(temporary)
        for name, number in (("few", _FEW_DOCUMENTS), ("many", asked.documents)):
            write_corpus(folder / f"{name}.jsonl", resampled(inputs), number)
        run_job(folder / "few.jsonl", folder / "warm-up", 2, options)
        few, one, two = [], [], []
        for number in range(asked.runs):
            few.append(run_job(folder / "few.jsonl", folder / f"few-{number}", 2, options))
            one.append(run_job(folder / "many.jsonl", folder / f"one-{number}", 1, options))
            two.append(run_job(folder / "many.jsonl", folder / f"two-{number}", 2, options))
            if content_of(one[-1]) != content_of(two[-1]):
                sys.exit("two workers give another output than one")
    found = scaled(*([seconds_of(run) for run in runs] for runs in (few, one, two)))
    print("\n".join(lines(found)))
    if asked.json is not None:
        figures = {"documents": asked.documents, "stages": [asdict(each) for each in found]}
        asked.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    slow = [each.stage for each in found if each.stage in CHECKED and each.ratio < WANTED]
    if asked.check and slow:
        sys.exit(f"less than {WANTED} times as fast: {', '.join(slow)}")


if __name__ == "__main__":
    main()
