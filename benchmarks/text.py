"""The text stage against what people use today, on the same documents and in the same run.

    python benchmarks/text.py --input corpus.jsonl [--input more.jsonl] [--limit 800] [--runs 3]
        [--scaling_mb 200] [--parts segment,tokens,tfidf,textrank,networkx,threads,processes]

Documents are JSON lines with `text` and maybe `title`; of each input the first `--limit` are taken,
and the language of most of them decides which parts there are. Every part runs lexbeam and its peer
in turn, each on one thread in this process, after a warm-up, and prints the median of the runs:

- segment: `jieba.lcut` and `rjieba` against `Segmenter.cut_all`; lists of words.
- tokens: `jieba.lcut` (English: scikit-learn's token pattern) against `Tokenizer.tokenize`, which
  gives normalised tokens with kinds and offsets.
- tfidf: `TfidfVectorizer(analyzer=jieba.lcut)` (English: `TfidfVectorizer()`) against lexbeam from
  raw text to the matrix. Then the greatest difference of a weight from scikit-learn's, given the
  same terms and vocabulary.
- textrank: `jieba.analyse.textrank(text, topK=20)` against lexbeam, both from raw text.
- networkx: a script that builds the same graph with networkx and calls its `pagerank`, against
  lexbeam, both from tokenized text to the scores of all words. Then the greatest difference.
- threads: the whole tokenize stage (read, tokenize, write), in a process that may use one core,
  and in one that may use all.
- processes: `Segmenter.cut_all` over `--scaling_mb` megabytes of text, in one process and in two,
  start-up not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import operator
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import memory

Work = Callable[[], Any]
PARTS = ("segment", "tokens", "tfidf", "textrank", "networkx", "threads", "processes")
_BLOCK = 1024
_TOKEN_PATTERN = re.compile(r"(?u)\b\w\w+\b")


class Corpus:
    """Documents of one language, and what lexbeam makes of them; tokenized once."""

    def __init__(self, name: str, contents: Sequence[str]) -> None:
        import pyarrow as pa

        from lexbeam.models.config import TextConfig
        from lexbeam.models.language import detect_languages
        from lexbeam.models.tokens import Tokenizer

        self.name = name
        self.contents = list(contents)
        self.num_characters = sum(map(len, contents))
        self.tokenizer = Tokenizer(TextConfig())
        languages = Counter(detect_languages(pa.array(self.contents)))
        self.language = str(languages.most_common(1)[0][0])
        self.blocks = list(self.tokenized(self.contents))

    def tokenized(self, contents: Sequence[str]) -> Iterator[Any]:
        """Blocks with the columns content, language, tokens, kinds, starts, ends."""
        import pyarrow as pa

        for first in range(0, len(contents), _BLOCK):
            block = pa.array(contents[first : first + _BLOCK])
            languages = pa.array([self.language] * len(block))
            tokens = self.tokenizer.tokenize(block, languages)
            columns = [block, languages, *tokens.columns]
            yield pa.RecordBatch.from_arrays(columns, ["content", "language", *tokens.schema.names])


def median_seconds(works: dict[str, Work], runs: int) -> dict[str, float]:
    """Median seconds of each, all of them in turn, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for run in range(runs + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if run:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


HEADER = (
    "corpus           part      documents  peer                        peer docs/s Mchar/s"
    "   lexbeam docs/s Mchar/s   ratio"
)


def compare(corpus: Corpus, part: str, peers: dict[str, Work], ours: Work, runs: int) -> None:
    """Time the peers and lexbeam, and print a line for each peer."""
    seconds = median_seconds({**peers, "lexbeam": ours}, runs)
    documents, characters = len(corpus.contents), corpus.num_characters / 1e6
    own = seconds.pop("lexbeam")
    for peer, value in seconds.items():
        print(
            f"{corpus.name:<16} {part:<9} {documents:>9,}  {peer:<27} {documents / value:>11,.0f} "
            f"{characters / value:>7.2f} {documents / own:>16,.0f} {characters / own:>7.2f} "
            f"{value / own:>7.1f}",
            flush=True,
        )


def say(corpus: Corpus, part: str, text: str) -> None:
    """Print a line that is no ratio."""
    print(f"{corpus.name:<16} {part:<9} {text}", flush=True)


def load_jieba() -> Any:
    """The module, with its dictionary read, and without its messages."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jieba
        import jieba.analyse
    jieba.setLogLevel(60)
    jieba.initialize()
    return jieba


def segment(corpus: Corpus, runs: int) -> None:
    """Chinese words, as lists of strings."""
    import rjieba

    jieba, other = load_jieba(), rjieba.Jieba()
    cut_all = corpus.tokenizer.segmenter.cut_all
    contents = corpus.contents
    peers = {
        "jieba.lcut": lambda: list(map(jieba.lcut, contents)),
        "rjieba (not the same words)": lambda: list(map(other.cut, contents)),
    }
    compare(corpus, "segment", peers, lambda: cut_all(contents), runs)
    expected = list(map(jieba.lcut, contents))
    same = sum(map(operator.eq, cut_all(contents), expected))
    others = sum(map(operator.eq, map(other.cut, contents), expected))
    say(corpus, "segment", f"equal to jieba: lexbeam {same:,} documents, rjieba {others:,}")


def tokens(corpus: Corpus, runs: int) -> None:
    """Tokens with kinds and offsets, against bare words."""
    if corpus.language == "zh":
        cut, peer = load_jieba().lcut, "jieba.lcut"
    else:
        peer = "re of scikit-learn"

        def cut(content: str) -> list[str]:
            return _TOKEN_PATTERN.findall(content.lower())

    ours = lambda: list(corpus.tokenized(corpus.contents))  # noqa: E731
    compare(corpus, "tokens", {peer: lambda: list(map(cut, corpus.contents))}, ours, runs)


def fit_tfidf(corpus: Corpus) -> tuple[Any, Any]:
    """From raw text to the vocabulary and the matrix (scipy CSR), by lexbeam's kernels."""
    import numpy as np
    from scipy.sparse import csr_matrix

    from lexbeam.models import counts, tfidf
    from lexbeam.models.config import CountConfig
    from lexbeam.models.vocabulary import fit_vocabulary

    blocks = list(corpus.tokenized(corpus.contents))
    terms = [counts.term_lists(block["tokens"], block["kinds"]) for block in blocks]
    counted = counts.merge_counts(
        counts.count_terms(lists, block["language"])
        for lists, block in zip(terms, blocks, strict=True)
    )
    numbers = {corpus.language: len(corpus.contents)}
    limits = CountConfig(min_df=1, max_df=1.0, max_terms=10_000_000)
    vocabulary, _ = fit_vocabulary([counted], numbers, limits)
    bags = [vocabulary.bag_of_words(lists) for lists in terms]
    ids = np.concatenate([bag["term_ids"].flatten() for bag in bags])
    frequencies = np.concatenate([bag["counts"].flatten() for bag in bags])
    lengths = np.concatenate([counts.list_lengths(bag["term_ids"]) for bag in bags])
    indptr = counts.row_offsets(lengths)
    weights = tfidf.weights(indptr, ids, frequencies, vocabulary.idf)
    shape = (len(corpus.contents), len(vocabulary))
    return vocabulary, csr_matrix((weights, ids, indptr), shape)


def tfidf(corpus: Corpus, runs: int) -> None:
    """From raw text to the matrix; and the same matrix by scikit-learn from the same terms."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    from lexbeam.models import counts

    if corpus.language == "zh":
        peer, make = "TfidfVectorizer, jieba", lambda: TfidfVectorizer(analyzer=load_jieba().lcut)
    else:
        peer, make = "TfidfVectorizer", TfidfVectorizer
    works = {peer: lambda: make().fit_transform(corpus.contents)}
    compare(corpus, "tfidf", works, lambda: fit_tfidf(corpus), runs)
    vocabulary, matrix = fit_tfidf(corpus)
    lists = [counts.term_lists(block["tokens"], block["kinds"]) for block in corpus.blocks]
    terms = [document for block in lists for document in block.to_pylist()]
    vectorizer = TfidfVectorizer(analyzer=list, vocabulary=vocabulary.terms.to_pylist())
    difference = abs(vectorizer.fit_transform(terms) - matrix).max()
    say(corpus, "tfidf", f"greatest difference from scikit-learn, same terms: {difference:.1e}")


def rank(blocks: Sequence[Any]) -> list[Any]:
    """TextRank keywords of tokenized blocks."""
    from lexbeam.models import textrank
    from lexbeam.models.config import TextRankConfig

    config = TextRankConfig()
    return [
        textrank.keywords_textrank(block, 20, config, textrank.word_scores(block, config))
        for block in blocks
    ]


def score(blocks: Sequence[Any]) -> list[Any]:
    """TextRank scores of the words of tokenized blocks."""
    from lexbeam.models import textrank
    from lexbeam.models.config import TextRankConfig

    return [textrank.word_scores(block, TextRankConfig()) for block in blocks]


def textrank(corpus: Corpus, runs: int) -> None:
    """Keywords from raw text."""
    jieba = load_jieba()
    peer: Work = lambda: [jieba.analyse.textrank(c, topK=20) for c in corpus.contents]  # noqa: E731
    ours: Work = lambda: rank(list(corpus.tokenized(corpus.contents)))  # noqa: E731
    compare(corpus, "textrank", {"jieba.analyse.textrank": peer}, ours, runs)


def node_sequences(blocks: Sequence[Any]) -> tuple[list[list[list[str]]], list[list[float]]]:
    """Of each document the words that are nodes, by sentence; and lexbeam's scores of its nodes."""
    from lexbeam.models import schemas
    from lexbeam.models import textrank as ranking
    from lexbeam.models.config import TextRankConfig

    documents, scores = [], []
    for block in blocks:
        ranked = ranking.word_scores(block, TextRankConfig())
        terms, nodes = ranked.terms.to_pylist(), ranked.token_nodes.tolist()
        is_end = (ranked.block.kinds == schemas.SENTENCE_END).tolist()
        offsets = ranked.block.offsets.tolist()
        for first, last in zip(offsets, offsets[1:], strict=False):
            sentences: list[list[str]] = [[]]
            for place in range(first, last):
                if is_end[place]:
                    sentences.append([])
                elif nodes[place] >= 0:
                    sentences[-1].append(terms[nodes[place]])
            documents.append(sentences)
        scores += [
            ranked.scores[first:last].tolist()
            for first, last in zip(ranked.offsets, ranked.offsets[1:], strict=False)
        ]
    return documents, scores


def networkx_scores(sentences: Sequence[Sequence[str]], window_size: int = 10) -> dict[str, float]:
    """Scores of a document's words, as a script with networkx computes them."""
    import networkx as nx

    graph = nx.Graph()
    for words in sentences:
        graph.add_nodes_from(words)
        for i, word in enumerate(words):
            for other in words[i + 1 : i + window_size]:
                if word == other:
                    continue
                weight = graph[word][other]["weight"] if graph.has_edge(word, other) else 0
                graph.add_edge(word, other, weight=weight + 1)
    return dict(nx.pagerank(graph, alpha=0.85, tol=1e-6, max_iter=200)) if graph else {}


def networkx(corpus: Corpus, runs: int) -> None:
    """Scores of words from tokenized text."""
    documents, scores = node_sequences(corpus.blocks)
    peer: Work = lambda: list(map(networkx_scores, documents))  # noqa: E731
    ours: Work = lambda: score(corpus.blocks)  # noqa: E731
    compare(corpus, "networkx", {"networkx.pagerank": peer}, ours, runs)
    # Both number a document's words in the order in which they first stand.
    pairs = zip(documents, scores, strict=True)
    difference = max(
        abs(theirs - own)
        for sentences, values in pairs
        for theirs, own in zip(networkx_scores(sentences).values(), values, strict=True)
    )
    say(corpus, "networkx", f"greatest difference from networkx: {difference:.1e}")


def memory_child(*arguments: str) -> dict[str, Any]:
    """What `memory.py` reports as a child: it plans a run, and carries out one stage."""
    command = [sys.executable, memory.__file__, "--child", *arguments]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return dict(json.loads(said.splitlines()[-1]))


def stage_seconds(corpus: Path, folder: Path, cores: set[int]) -> float:
    """Seconds of the tokenize stage in a process that may use some of the cores."""
    output = tempfile.mkdtemp(dir=folder)
    job = ["--input", str(corpus), "--output", output, "--features", "tfidf"]
    planned = memory_child("plan", *job)
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores)  # which the child inherits
        said = memory_child("tokenize", planned["run"])
    finally:
        os.sched_setaffinity(0, allowed)
    return float(said["seconds"])


def threads(corpus: Corpus, runs: int, megabytes: int) -> None:
    """The whole tokenize stage on one core and on all."""
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="lexbeam-text-") as name:
        path = Path(name, "corpus.jsonl")
        size = 0
        with path.open("w", encoding="utf-8") as out:
            for number, content in enumerate(cycle(corpus.contents)):
                line = json.dumps({"id": str(number), "text": content}, ensure_ascii=False)
                out.write(line + "\n")
                size += len(line.encode())
                if size >= megabytes * 1e6:
                    break
        works = {
            "one core": lambda: stage_seconds(path, Path(name), {min(cores)}),
            "all cores": lambda: stage_seconds(path, Path(name), cores),
        }
        found: dict[str, list[float]] = {label: [] for label in works}
        for _ in range(runs):
            for label, work in works.items():
                found[label].append(work())
    one, all_cores = (statistics.median(values) for values in found.values())
    say(
        corpus,
        "threads",
        f"tokenize stage of {size / 1e6:.0f} MB: {one:.1f} s on one core, {all_cores:.1f} s on "
        f"{len(cores)}: {one / all_cores:.2f} x",
    )


def cut_share(contents: Sequence[str], num_bytes: float, barrier: Any, results: Any) -> None:
    """In a process of its own: cut so many bytes, and report the seconds it took."""
    from lexbeam.models.segment import Segmenter

    cut_all = Segmenter().cut_all
    cut_all(contents[:1])
    barrier.wait()
    began, done = time.perf_counter(), 0
    size = sum(len(content.encode()) for content in contents)
    while done < num_bytes:
        # The last round takes as many documents as are still wanted.
        share = math.ceil(len(contents) * min(1.0, (num_bytes - done) / size))
        cut_all(contents[:share])
        done += size
    results.put(time.perf_counter() - began)


def segment_seconds(contents: Sequence[str], num_bytes: float, num_processes: int) -> float:
    """Seconds until all of some processes have cut their share."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(num_processes), context.Queue()
    arguments = (contents, num_bytes / num_processes, barrier, results)
    children = [context.Process(target=cut_share, args=arguments) for _ in range(num_processes)]
    for child in children:
        child.start()
    seconds = [results.get(timeout=600) for _ in children]
    for child in children:
        child.join()
    return float(max(seconds))


def processes(corpus: Corpus, runs: int, megabytes: int) -> None:
    """Bare segmenting in one process and in two."""
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(runs):
        for number, values in found.items():
            values.append(segment_seconds(corpus.contents, megabytes * 1e6, number))
    one, two = (statistics.median(values) for values in found.values())
    say(
        corpus,
        "processes",
        f"segmenting {megabytes} MB: {one:.1f} s in one process, {two:.1f} s in two: "
        f"{one / two:.2f} x",
    )


CHINESE_ONLY = ("segment", "textrank", "processes")
COMPARISONS: dict[str, Callable[[Corpus, int], None]] = {
    "segment": segment,
    "tokens": tokens,
    "tfidf": tfidf,
    "textrank": textrank,
    "networkx": networkx,
}


def run_parts(corpus: Corpus, options: argparse.Namespace) -> None:
    """All parts that there are for the corpus's language."""
    for part in options.parts:
        if part in CHINESE_ONLY and corpus.language != "zh":
            continue
        if part in COMPARISONS:
            COMPARISONS[part](corpus, options.runs)
        elif part == "threads":
            threads(corpus, options.runs, options.scaling_mb)
        else:
            processes(corpus, options.runs, options.scaling_mb)


def parser_of() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, action="append", required=True, metavar="CORPUS")
    parser.add_argument("--limit", type=int, default=800, help="documents of each input")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scaling_mb", type=int, default=200)
    parser.add_argument("--parts", default=",".join(PARTS))
    return parser


def main() -> None:
    """Run everything and print it line by line."""
    parser = parser_of()
    options = parser.parse_args()
    options.parts = options.parts.split(",")
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"--parts {','.join(unknown)}: choose among {','.join(PARTS)}")
    import pyarrow as pa

    # Peers have one thread, too.
    pa.set_cpu_count(1)
    print(HEADER)
    for path in options.input:
        contents = memory.contents_of(path, options.limit)
        if not contents:
            parser.error(f"--input {path}: no documents")
        run_parts(Corpus(path.stem, contents), options)


if __name__ == "__main__":
    main()
