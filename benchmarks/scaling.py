"""One worker beside two: how much faster each stage is.

    python benchmarks/scaling.py --input corpus.jsonl [--input more.jsonl] [--documents 100000]
        [--runs 3] [--json FILE] [--check]

A corpus of so many documents is drawn from the inputs by a fixed seed. The stages of the text are
carried out by one worker process on one core, and by two on two cores
(`--direct_running_mode multi_processing`; a worker has one thread). So is a job of a few documents,
whose time is taken for what is fixed: starting processes, importing, loading. The LDA is fitted
where it fits, inside one worker, on one core and on two.

Printed are the medians of the runs in turn: seconds of each stage, without what is fixed, and the
ratio. Outputs must be the same. `--check` fails where a stage that works on every document is less
than 1.8 times as fast on two. Needs Linux and two cores.
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
# Whether a job is of few documents, and its workers; in the order of `scaled`.
_RUNS = {"few-one": (True, 1), "few-two": (True, 2), "one": (False, 1), "two": (False, 2)}


@dataclass(frozen=True)
class Scaled:
    """A stage with one and with two workers; seconds without what is fixed, which is beside it."""

    stage: str
    fixed_of_one: float
    fixed_of_two: float
    one: float
    two: float

    @property
    def ratio(self) -> float:
        """How many times as fast two are."""
        return self.one / self.two if self.two > 0 else float("nan")


def run_job(corpus: Path, output: Path, workers: int) -> dict[str, float]:
    """Seconds of each stage of a job on so many cores; `output` gets its files."""
    processes = ("--direct_running_mode", "multi_processing", "--direct_num_workers", str(workers))
    found = {}
    for command, features, more in (
        ("run", "tfidf,textrank", processes),
        ("fit", "lda", ("--lda_execution", "local")),
    ):
        arguments = [
            command, "--quiet", "--input", str(corpus), "--output", str(output), "--run_id",
            command, "--reuse_store", "off", "--features", features, "--split_size", "4M", *more,
        ]  # fmt: skip
        manifest = run_on_cores(arguments, workers, output / "runs" / command)
        stages = {entry["stage"]: entry["seconds"] for entry in manifest["stages"]}
        found |= {"lda": stages["lda"]} if command == "fit" else stages
    return found


def run_on_cores(arguments: Sequence[str], cores: int, run: Path) -> dict[str, Any]:
    """The manifest of a job that may use so many cores."""
    chosen = sorted(os.sched_getaffinity(0))[:cores]
    command = [sys.executable, "-m", "lexbeam.pipeline.cli", *arguments]
    done = subprocess.run(
        command, stderr=subprocess.PIPE, text=True, check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, chosen),
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"{arguments[0]} on {cores} cores failed: {done.stderr[-2000:]}")
    return dict(json.loads((run / "manifest.json").read_text()))


def content_of(output: Path) -> dict[str, str]:
    """Checksums of what was published."""
    found = {}
    for manifest in sorted(output.glob("runs/*/manifest.json")):
        files = json.loads(manifest.read_text())["files"]
        found |= {f"{manifest.parent.name}/{e['path']}": e["sha256"] for e in files}
    return {path: digest for path, digest in found.items() if not path.endswith("plan.json")}


Runs = Sequence[Mapping[str, float]]


def scaled(few_on_one: Runs, few_on_two: Runs, one: Runs, two: Runs) -> list[Scaled]:
    """Medians of several runs, stage by stage."""

    def median(runs: Runs, stage: str) -> float:
        return statistics.median(run[stage] for run in runs)

    found = []
    for stage in one[0]:
        fixed = median(few_on_one, stage), median(few_on_two, stage)
        of_one, of_two = median(one, stage) - fixed[0], median(two, stage) - fixed[1]
        found.append(Scaled(stage, *fixed, of_one, of_two))
    return found


def lines(found: Sequence[Scaled]) -> list[str]:
    """The table."""
    head = (
        f"{'stage':<12} {'fixed':>8} {'fixed':>8} {'1 worker':>10} {'2 workers':>10} {'ratio':>7}"
    )
    rows = [
        f"{each.stage:<12} {each.fixed_of_one:>8.2f} {each.fixed_of_two:>8.2f} {each.one:>10.2f} "
        f"{each.two:>10.2f} {each.ratio:>7.2f}"
        for each in found
    ]
    return [head, *rows]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, action="append", required=True, metavar="CORPUS")
    parser.add_argument("--documents", type=int, default=100_000, metavar="N")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--check", action="store_true", help=f"fail below {WANTED}")
    asked = parser.parse_args()
    inputs = [read_documents(path) for path in asked.input]
    with tempfile.TemporaryDirectory(prefix="lexbeam-scaling-") as temporary:
        folder = Path(temporary)
        for name, number in (("few", _FEW_DOCUMENTS), ("many", asked.documents)):
            write_corpus(folder / f"{name}.jsonl", resampled(inputs), number)
        few, many = folder / "few.jsonl", folder / "many.jsonl"
        run_job(few, folder / "warm-up", 2)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in _RUNS}
        for number in range(asked.runs):
            for name, (is_few, workers) in _RUNS.items():
                output = folder / f"{name}-{number}"
                runs[name].append(run_job(few if is_few else many, output, workers))
            if content_of(folder / f"one-{number}") != content_of(folder / f"two-{number}"):
                sys.exit("two workers give another output than one")
    found = scaled(*runs.values())
    print("\n".join(lines(found)))
    if asked.json is not None:
        figures = {"documents": asked.documents, "stages": [asdict(each) for each in found]}
        asked.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    slow = [each.stage for each in found if each.stage in CHECKED and each.ratio < WANTED]
    if asked.check and slow:
        sys.exit(f"less than {WANTED} times as fast: {', '.join(slow)}")


if __name__ == "__main__":
    main()
