"""Counting under a bound: the memory that `lexbeam fit` needs for a corpus of many distinct terms.

    python benchmarks/counting.py [--terms 20000000] [--compressed] [--check] [--folder DIR]
        [--verbose]

Writes a corpus of English documents of about 1,000 distinct words in which every term stands in
one or two documents, and runs `lexbeam fit --features tfidf` on it as a process of its own.
Prints seconds, and the peak of the memory of that process and all below it, sampled from outside
ten times a second: proportional set sizes, so that a page that several of them share counts once.
Pages of files count too, though the system takes them back when it needs them; the peak without
them is printed beside it. `--compressed` writes one .gz file, which is a single split; without it
the corpus is cut into splits of 16 MB. `--check` fails where the peak is above 4 GB. Needs Linux.
"""

from __future__ import annotations

import argparse
import gzip
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

Int64Array = npt.NDArray[np.int64]

WORDS_PER_DOCUMENT = 1000
SECONDS_BETWEEN_SAMPLES = 0.1
# Consonants alone: no stop word is made of them, nor any word of a dictionary.
LETTERS = np.frombuffer(b"bcdfghjklmnpqrstvwxz", dtype=np.uint8)
LETTERS_PER_WORD = 8
NUM_WORDS = len(LETTERS) ** LETTERS_PER_WORD
MAX_PEAK = 4 * 10**9
# A comma after so many words: candidate phrases end there.
WORDS_PER_PHRASE = 3
PHRASES_PER_SENTENCE = 5


@dataclass(frozen=True)
class Measured:
    """What one command took.

    Attributes:
        seconds: wall seconds.
        peak: bytes of the whole process tree at its highest.
        peak_anonymous: the same without pages of files.
    """

    seconds: float
    peak: int
    peak_anonymous: int


def spread(numbers: Int64Array, count: int) -> Int64Array:
    """A permutation of range(count), at the places `numbers`: neighbours land far apart."""
    step = int(count * 0.6180339887) | 1
    while math.gcd(step, count) > 1:
        step += 2
    return (numbers * step) % count


def words_of(terms: Int64Array) -> list[bytes]:
    """Words of terms: a different one for each number below `NUM_WORDS`."""
    # Coprime to the number of words, so that no two terms share one; terms need not be ordered.
    rest = (terms * 15_485_863 + 12_345) % NUM_WORDS
    letters = np.empty((len(terms), LETTERS_PER_WORD), dtype=np.uint8)
    for place in range(LETTERS_PER_WORD):
        letters[:, place] = LETTERS[rest % len(LETTERS)]
        rest //= len(LETTERS)
    words: list[bytes] = letters.view(f"S{LETTERS_PER_WORD}").ravel().tolist()
    return words


def document_terms(num_terms: int) -> Iterator[Int64Array]:
    """Distinct terms of each document: all terms once, then every other one once more."""
    for count, stride in ((num_terms, 1), (num_terms // 2, 2)):
        for first in range(0, count, WORDS_PER_DOCUMENT):
            numbers = np.arange(first, min(first + WORDS_PER_DOCUMENT, count))
            yield stride * spread(numbers, count)


def text_of(words: list[bytes]) -> bytes:
    """Sentences of words, with commas."""
    phrases = [
        b" ".join(words[i : i + WORDS_PER_PHRASE]) for i in range(0, len(words), WORDS_PER_PHRASE)
    ]
    sentences = [
        b", ".join(phrases[i : i + PHRASES_PER_SENTENCE])
        for i in range(0, len(phrases), PHRASES_PER_SENTENCE)
    ]
    return b". ".join(sentences) + b"."


def write_corpus(file: BufferedIOBase, num_terms: int) -> int:
    """Write the documents as JSONL; returns their number."""
    number = 0
    for number, terms in enumerate(document_terms(num_terms), 1):
        file.write(b'{"id": "%d", "text": "%s"}\n' % (number, text_of(words_of(terms))))
    return number


def make_corpus(folder: Path, num_terms: int, *, compressed: bool) -> Path:
    """The corpus as one file in the folder."""
    path = folder / ("documents.jsonl.gz" if compressed else "documents.jsonl")
    if compressed:
        with gzip.open(path, "wb", compresslevel=1) as file:
            write_corpus(file, num_terms)
    else:
        with path.open("wb") as file:
            write_corpus(file, num_terms)
    return path


def process_tree(root: int) -> list[int]:
    """A process and all below it."""
    found = [root]
    for process in found:
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            # Processes end while they are looked at.
            with suppress(OSError):
                found += map(int, task.read_text().split())
    return found


def memory_of(process: int) -> tuple[int, int]:
    """Bytes of a process, and of these the anonymous ones; 0 where it has ended."""
    sizes = {"Pss:": 0, "Pss_Anon:": 0}
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(" ")
            if name in sizes:
                sizes[name] = int(rest.split()[0]) << 10
    return sizes["Pss:"], sizes["Pss_Anon:"]


def measure(command: list[str], *, verbose: bool) -> Measured:
    """Run a command, watching its memory; raises CalledProcessError where it fails."""
    began = time.perf_counter()
    peak = peak_anonymous = 0
    stderr = None if verbose else subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr) as process:
        while process.poll() is None:
            sizes = [memory_of(number) for number in process_tree(process.pid)]
            peak = max(peak, sum(size for size, _ in sizes))
            peak_anonymous = max(peak_anonymous, sum(size for _, size in sizes))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Measured(time.perf_counter() - began, peak, peak_anonymous)


def terms_kept(output: Path) -> int:
    """Rows of the published vocabulary."""
    parts = output.glob("runs/*/terms/part-*.parquet")
    return sum(pq.read_metadata(part).num_rows for part in parts)


def main() -> None:
    """Write the corpus, fit it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--terms", type=int, default=20_000_000, help="distinct terms")
    parser.add_argument("--compressed", action="store_true", help="one .gz file: one split")
    parser.add_argument("--check", action="store_true", help="exit with 1 above 4 GB")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--verbose", action="store_true", help="show the command's progress")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="lexbeam-counting-") as folder:
        corpus = make_corpus(Path(folder), options.terms, compressed=options.compressed)
        output = Path(folder, "out")
        command = [sys.executable, "-m", "lexbeam.pipeline.cli", "fit", "--features", "tfidf"]
        command += ["--input", str(corpus), "--output", str(output)]
        measured = measure(command, verbose=options.verbose)
        rows = {
            "distinct terms": f"{options.terms:,}",
            "terms kept": f"{terms_kept(output):,}",
            "input": f"{corpus.stat().st_size / 1e6:,.0f} MB{' (gz)' * options.compressed}",
            "seconds": f"{measured.seconds:,.1f}",
            "peak": f"{measured.peak / 1e9:.2f} GB",
            "without files": f"{measured.peak_anonymous / 1e9:.2f} GB",
        }
    for name, value in rows.items():
        print(f"{name:16}{value:>16}")
    if options.check and measured.peak > MAX_PEAK:
        sys.exit(f"the peak is above {MAX_PEAK / 1e9:g} GB")


if __name__ == "__main__":
    main()
