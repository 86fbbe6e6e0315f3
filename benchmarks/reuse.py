"""What a corpus costs that has hardly changed: runs that take over from an earlier one.

    python benchmarks/reuse.py --input corpus.jsonl … [--limit 2000] [--changed 0.01] [--runs 3]

Yesterday's corpus is run once. Of today's a share of the documents is new or changed, scattered
over the corpus; it is run with and without what yesterday's run kept, and without BERT, and the
same with `transform`. All are processes of their own on the same cores. Prints seconds (median,
least and most), the ratios to the full job, and whether the outputs are the same.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import memory
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from end_to_end import seconds_of

Documents = list[memory.Document]
EXACT = ("terms", "topics")
EXACT_COLUMNS = ("doc_id", "text_sha256", "keywords_tfidf", "keywords_textrank", "topics")


def documents_of(paths: list[Path], limit: int | None, seed: int) -> Documents:
    """The documents of the files, shuffled, with ids of their own."""
    documents = [
        {"id": f"{path.stem}-{number}", "text": text}
        for path in paths
        for number, text in enumerate(memory.contents_of(path))
    ]
    random.Random(seed).shuffle(documents)
    return documents[:limit]


def two_days(documents: Documents, share: float, seed: int) -> tuple[Documents, Documents]:
    """The corpora of yesterday and of today.

    Of today's documents half of the share are changed and half new; as many were removed.
    """
    count = max(1, round(share * len(documents) / 2))
    yesterday, new = documents[:-count], documents[-count:]
    chosen = random.Random(seed).sample(range(len(yesterday)), 2 * count)
    today = [dict(document) for document in yesterday]
    for row in chosen[:count]:
        today[row]["text"] += f" Changed today, in row {row}."
    for row, document in zip(chosen[count:], new, strict=True):
        today[row] = document
    return yesterday, today


def lexbeam_seconds(*arguments: str) -> float:
    """Wall seconds of one lexbeam command; raises CalledProcessError where it fails."""
    return seconds_of([sys.executable, "-m", "lexbeam.pipeline.cli", *arguments])


def stage_seconds(run: Path, name: str) -> float:
    """Wall seconds of a stage."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return next(entry["seconds"] for entry in summary["stages"] if entry["stage"] == name)


def differences(left: Path, right: Path) -> str:
    """What two runs differ in."""
    for dataset in EXACT if (left / "terms").exists() else ():
        if table(left, dataset) != table(right, dataset):
            return f"{dataset} differ"
    ours, theirs = table(left, "documents"), table(right, "documents")
    for column in EXACT_COLUMNS:
        if not ours[column].equals(theirs[column]):
            return f"{column} differs"
    if ours["embedding"].null_count:
        return "the same"
    vectors = [np.array(side["embedding"].to_pylist()) for side in (ours, theirs)]
    cosine = float((vectors[0] * vectors[1]).sum(axis=1).min())
    return f"the same; embeddings' least cosine {cosine:.5f}"


def table(run: Path, dataset: str) -> pa.Table:
    """All parts of a dataset, in order."""
    return pa.concat_tables(pq.read_table(path) for path in sorted((run / dataset).iterdir()))


def measure(arguments: list[str], output: Path, name: str, runs: int) -> list[float]:
    """Seconds of a job, each time in a run of its own; the last one stays."""
    found = []
    for _ in range(runs):
        shutil.rmtree(output / "runs" / name, ignore_errors=True)
        found.append(lexbeam_seconds(*arguments, "--output", str(output), "--run_id", name))
    return found


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", type=Path, required=True, nargs="+")
    add("--limit", type=int, help="documents")
    add("--changed", type=float, default=0.01, help="share of the documents")
    add("--num_topics", type=int, default=50)
    add("--split_size", default="1M")
    add("--runs", type=int, default=3)
    add("--seed", type=int, default=0)
    add("--options", nargs=argparse.REMAINDER, default=[], help="more options of lexbeam run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lexbeam-reuse-") as folder:
        compare(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> None:
    """All jobs, in a folder of their own."""
    documents = documents_of(options.input, options.limit, options.seed)
    yesterday, today = two_days(documents, options.changed, options.seed)
    source, output = folder / "corpus.jsonl", folder / "out"
    memory.write_corpus(source, iter(yesterday), len(yesterday))
    common = ["--input", str(source), "--split_size", options.split_size, *options.options]
    fit = ["--num_topics", str(options.num_topics)]
    lexbeam_seconds("run", *common, *fit, "--output", str(output), "--run_id", "yesterday")
    memory.write_corpus(source, iter(today), len(today))
    model = ["--model", str(output / "runs" / "yesterday")]
    text = ["--features", "tfidf,textrank,lda", "--reuse", "none"]
    jobs = {
        "run, all anew": ["run", *common, *fit, "--reuse", "none"],
        "run, without BERT": ["run", *common, *fit, *text],
        "run, with reuse": ["run", *common, *fit, "--reuse", "yesterday"],
        "transform, all anew": ["transform", *common, *model, "--reuse", "none"],
        "transform, with reuse": ["transform", *common, *model, "--reuse", "yesterday"],
    }
    print(f"{len(today):,} documents, {options.changed:.1%} new or changed")
    seconds = {}
    for name, arguments in jobs.items():
        found = measure(arguments, output, name.replace(", ", "-").replace(" ", "-"), options.runs)
        seconds[name] = statistics.median(found)
        whole = seconds[f"{name.split(',')[0]}, all anew"]
        print(
            f"{name:<24}{seconds[name]:8.1f} s  ({min(found):.1f} to {max(found):.1f})"
            f"  {seconds[name] / whole:6.1%} of all anew"
        )
    runs = output / "runs"
    encoding = stage_seconds(runs / "run-all-anew", "encode")
    allowed = seconds["run, without BERT"] + 0.03 * encoding
    print(f"run with reuse: {seconds['run, with reuse']:.1f} s; without BERT and 3 % of encoding: "
          f"{allowed:.1f} s")  # fmt: skip
    for name in ("run", "transform"):
        says = differences(runs / f"{name}-with-reuse", runs / f"{name}-all-anew")
        print(f"{name}: {says}")


if __name__ == "__main__":
    main()
