"""LDA against what people use today, on the same matrix and in the same run.

    python benchmarks/lda.py --input corpus.jsonl [--input more.jsonl] [--num_topics 50]
        [--threads 2] [--runs 3] [--min_df 5] [--peers lexbeam,gensim,...]
        [--parts peers,threads,documents,topics] [--documents 10000 40000] [--json FILE] [--check]

The inputs, JSON lines with `text` and maybe `title`, are tokenized and counted once by lexbeam;
every tenth document, by the hash of its text, is held out. Every fit then runs in a process of its
own, from the same matrix, in whatever form the peer likes best; what is timed is the fit alone,
after a warm-up on a few documents. Printed are, for each:

- seconds: median of the runs, each of which has a seed of its own.
- likelihood: natural logarithm of the probability of a token of the held-out documents, by one
  evaluator for all (document completion: topics of a document from every second of its terms, then
  the likelihood of the others), with each peer's own p(term | topic); mean of the runs.
- NPMI and diversity: of the ten and 25 likeliest terms of each topic, over all training documents;
  means of the runs.
- peak and growth: the most memory that the process had resident, and how much of it the fit added;
  bound: what lexbeam may add to its matrix, (threads + 2) x K x V x 8 bytes and 200 MB.

Peers: gensim `LdaModel` and `LdaMulticore` (10 passes), scikit-learn batch (10 iterations),
tomotopy (300 iterations), and lexbeam's own variational Bayes. The other parts time lexbeam alone:
with one thread and with all, with more documents (drawn again from the corpus), with more topics.
With --check the script fails where a fit of lexbeam adds more than the bound.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import memory

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lexbeam.models.lda import Bow

    Topics = npt.NDArray[np.float64]

PARTS = ("peers", "threads", "documents", "topics")
PASSES = 10
GIBBS_ITERATIONS = 300
_HELD_OUT_MODULUS = 10
_EVALUATION_ITERATIONS = 100
_EVALUATION_PRIOR = 0.1
_MIB = 1 << 20


# Below: what the children do. Nothing heavy is imported in the parent, see memory.py.


def prepare(folder: Path, min_df: int, paths: Sequence[str]) -> dict[str, Any]:
    """Tokenize and count; write the training and the held-out matrix and the terms."""
    import numpy as np
    import pyarrow as pa

    from lexbeam.models import counts
    from lexbeam.models.config import CountConfig, TextConfig
    from lexbeam.models.language import detect_languages
    from lexbeam.models.lda import Bow
    from lexbeam.models.tokens import Tokenizer
    from lexbeam.models.vocabulary import fit_vocabulary

    documents = [document for path in paths for document in memory.read_documents(Path(path))]
    texts = ["\n".join(filter(None, (d.get("title"), d["text"]))) for d in documents]
    content = pa.array(texts)
    languages = pa.array(detect_languages(content))
    tokens = Tokenizer(TextConfig()).tokenize(content, languages)
    lists = counts.term_lists(tokens["tokens"], tokens["kinds"])
    numbers = dict(Counter(languages.to_pylist()))
    counted = counts.count_terms(lists, languages)
    vocabulary, _ = fit_vocabulary([counted], numbers, CountConfig(min_df=min_df))
    bow = Bow.from_batch(vocabulary.bag_of_words(lists))
    hashes = [int(hashlib.sha256(text.encode()).hexdigest(), 16) for text in texts]
    held_out = np.array([value % _HELD_OUT_MODULUS == 0 for value in hashes])
    save(folder / "train.npz", rows_of(bow, np.flatnonzero(~held_out)))
    save(folder / "held_out.npz", rows_of(bow, np.flatnonzero(held_out)))
    terms = json.dumps(vocabulary.terms.to_pylist(), ensure_ascii=False)
    (folder / "terms.json").write_text(terms, encoding="utf-8")
    return {
        "documents": int((~held_out).sum()),
        "held_out": int(held_out.sum()),
        "terms": len(vocabulary),
        "tokens": bow.num_tokens,
    }


def rows_of(bow: Bow, rows: npt.NDArray[np.int64]) -> Bow:
    """Some documents of a matrix, in the order given."""
    import numpy as np

    from lexbeam.models.lda import Bow

    lengths = np.diff(bow.indptr)[rows]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    entries = np.arange(indptr[-1]) + np.repeat(bow.indptr[rows] - indptr[:-1], lengths)
    return Bow(indptr, bow.term_ids[entries], bow.counts[entries])


def save(path: Path, bow: Bow) -> None:
    """Write a matrix."""
    import numpy as np

    np.savez(path, indptr=bow.indptr, term_ids=bow.term_ids, counts=bow.counts)


def load(path: Path) -> Bow:
    """Read a matrix of `save`."""
    import numpy as np

    from lexbeam.models.lda import Bow

    with np.load(path) as arrays:
        return Bow(arrays["indptr"], arrays["term_ids"], arrays["counts"])


def as_pairs(bow: Bow) -> list[list[tuple[int, int]]]:
    """Documents as gensim takes them."""
    pairs = list(zip(bow.term_ids.tolist(), bow.counts.tolist(), strict=True))
    ends = bow.indptr.tolist()
    return [pairs[first:last] for first, last in zip(ends[:-1], ends[1:], strict=True)]


class Task(NamedTuple):
    """What is fitted."""

    num_terms: int
    num_topics: int
    threads: int
    seed: int


# Each of these prepares the matrix in its peer's own form, and returns what is timed: a function
# that fits, and gives p(term | topic), (num_topics, num_terms) float64.
Fit = Callable[[], "Topics"]


def lexbeam(bow: Bow, task: Task, inference: str = "map") -> Fit:
    """lexbeam, with its defaults."""
    from lexbeam.models import lda
    from lexbeam.models.config import LdaConfig

    config = LdaConfig(num_topics=task.num_topics, inference=inference, seed=task.seed)

    def fit() -> Topics:
        model = lda.fit(bow, task.num_terms, config, num_threads=task.threads)
        assert model is not None
        return model.topic_term.T

    return fit


def lexbeam_vb(bow: Bow, task: Task) -> Fit:
    """Variational Bayes by lexbeam."""
    return lexbeam(bow, task, "vb")


def gensim(bow: Bow, task: Task, workers: int = 0) -> Fit:
    """Online variational Bayes: `LdaModel`, or `LdaMulticore` with workers."""
    from gensim.models import LdaModel, LdaMulticore

    corpus, names = as_pairs(bow), {term: str(term) for term in range(task.num_terms)}
    options = {
        "num_topics": task.num_topics,
        "id2word": names,
        "passes": PASSES,
        "random_state": task.seed,
        "eval_every": None,
    }

    def fit() -> Topics:
        if workers:
            model = LdaMulticore(corpus, workers=workers, **options)
        else:
            model = LdaModel(corpus, **options)
        topics: Topics = model.get_topics()
        return topics

    return fit


def gensim_multicore(bow: Bow, task: Task) -> Fit:
    """The same on several processes."""
    return gensim(bow, task, task.threads)


def scikit_learn(bow: Bow, task: Task) -> Fit:
    """Batch variational Bayes; one process."""
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import LatentDirichletAllocation

    matrix = csr_matrix((bow.counts, bow.term_ids, bow.indptr), (len(bow), task.num_terms))

    def fit() -> Topics:
        model = LatentDirichletAllocation(
            task.num_topics, learning_method="batch", max_iter=PASSES, random_state=task.seed
        ).fit(matrix)
        topics: Topics = model.components_ / model.components_.sum(axis=1, keepdims=True)
        return topics

    return fit


def tomotopy(bow: Bow, task: Task) -> Fit:
    """Collapsed Gibbs sampling."""
    import numpy as np
    import tomotopy as tp

    model = tp.LDAModel(k=task.num_topics, seed=task.seed + 1)
    ends = bow.indptr.tolist()
    names = np.array([str(term) for term in range(task.num_terms)])
    for first, last in zip(ends[:-1], ends[1:], strict=True):
        words = np.repeat(names[bow.term_ids[first:last]], bow.counts[first:last]).tolist()
        if words:
            model.add_doc(words)

    def fit() -> Topics:
        model.train(GIBBS_ITERATIONS, workers=task.threads)
        # A term of held-out documents alone has no count there: as likely as the prior says.
        found = np.array([int(name) for name in model.used_vocabs])
        topics = np.zeros((task.num_topics, task.num_terms))
        for topic in range(task.num_topics):
            topics[topic, found] = model.get_topic_word_dist(topic)
        topics[topics == 0] = topics[topics > 0].min()
        return topics / topics.sum(axis=1, keepdims=True)

    return fit


PEERS: dict[str, Callable[[Bow, Task], Fit]] = {
    function.__name__: function
    for function in (lexbeam, lexbeam_vb, gensim, gensim_multicore, scikit_learn, tomotopy)
}


def fit_peer(
    folder: Path, name: str, num_topics: int, threads: int, seed: int, documents: int
) -> Any:
    """Fit one peer, write its topics; `documents`, if not 0, are drawn from the matrix."""
    import numpy as np

    num_terms = len(json.loads((folder / "terms.json").read_text(encoding="utf-8")))
    task = Task(num_terms, num_topics, threads, seed)
    bow = load(folder / "train.npz")
    few = rows_of(bow, np.arange(min(50, len(bow))))
    PEERS[name](few, task._replace(num_topics=min(num_topics, 5)))()
    if documents:
        bow = rows_of(bow, np.random.default_rng(0).integers(0, len(bow), documents))
    fit = PEERS[name](bow, task)
    before, began = memory.own_peak(), time.perf_counter()
    topics = fit()
    seconds = time.perf_counter() - began
    np.save(folder / f"{name}.npy", topics)
    return {"seconds": seconds, "growth": memory.own_peak() - before}


def evaluate(folder: Path, name: str) -> dict[str, float]:
    """Likelihood, coherence and diversity of a peer's topics."""
    import numpy as np

    from lexbeam.models import coherence, lda_kernels
    from lexbeam.models.lanes import padded_length

    topics = np.load(folder / f"{name}.npy")
    phi = np.zeros((topics.shape[1], padded_length(len(topics))))
    phi[:, : len(topics)] = topics.T
    held_out, train = load(folder / "held_out.npz"), load(folder / "train.npz")
    likelihood, num_tokens = lda_kernels.completion_likelihood(
        held_out.indptr,
        held_out.term_ids,
        held_out.counts,
        np.ones(len(held_out), np.bool_),
        0,
        len(held_out),
        phi,
        len(topics),
        _EVALUATION_PRIOR,
        _EVALUATION_ITERATIONS,
    )
    top = np.argsort(-topics, axis=1, kind="stable")[:, : coherence.DIVERSITY_TERMS]
    top = top.astype(np.int32)
    return {
        "likelihood": likelihood / 2.0**lda_kernels.LIKELIHOOD_BITS / num_tokens,
        "npmi": float(coherence.npmi(train, top, len(phi)).mean()),
        "diversity": coherence.diversity(top),
    }


CHILDREN: dict[str, Callable[..., Any]] = {
    "prepare": lambda folder, min_df, *paths: prepare(Path(folder), int(min_df), paths),
    "fit": lambda folder, name, *numbers: fit_peer(Path(folder), name, *map(int, numbers)),
    "evaluate": lambda folder, name: evaluate(Path(folder), name),
}


# Below: what the parent does.


def run_child(*arguments: object) -> tuple[dict[str, Any], int]:
    """What this script reports as a child, and its peak in bytes."""
    return memory.run_child(*map(str, arguments), script=__file__)


def measure(
    options: argparse.Namespace,
    folder: Path,
    name: str,
    task: tuple[int, int, int],
    quality: bool = False,
) -> dict[str, Any]:
    """Median seconds, greatest peak and growth of a peer's fits, and maybe the mean quality."""
    num_topics, threads, documents = task
    fits, peaks, qualities = [], [], []
    for seed in range(options.runs):
        said, peak = run_child("fit", folder, name, num_topics, threads, seed, documents)
        fits.append(said)
        peaks.append(peak)
        if quality:
            qualities.append(run_child("evaluate", folder, name)[0])
    measured = {
        "peer": name,
        "num_topics": num_topics,
        "threads": threads,
        "documents": documents,
        "seconds": statistics.median(said["seconds"] for said in fits),
        "growth": max(said["growth"] for said in fits),
        "peak": max(peaks),
    }
    for figure in qualities[0] if qualities else ():
        values = [found[figure] for found in qualities]
        measured[figure] = statistics.mean(values)
        measured[f"{figure}_of_runs"] = values
    return measured


PEERS_HEADER = (
    "peer              seconds   ratio  likelihood    NPMI  diversity  peak MiB  growth MiB"
)
SCALING_HEADER = "part        topics  threads  documents  seconds   ratio  growth MiB"


def bound_of(terms: int, num_topics: int, threads: int) -> int:
    """Bytes that lexbeam may add to its matrix."""
    return (threads + 2) * num_topics * terms * 8 + 200 * _MIB


def compare(options: argparse.Namespace, folder: Path, corpus: dict[str, Any]) -> Iterator[Any]:
    """A line for each peer; the ratio is its time over lexbeam's."""
    bound = bound_of(corpus["terms"], options.num_topics, options.threads)
    print(f"lexbeam may add {bound / _MIB:,.0f} MiB to its matrix\n{PEERS_HEADER}")
    own = None
    for name in options.peers:
        task = (options.num_topics, options.threads, 0)
        entry = measure(options, folder, name, task, quality=True)
        own = own or entry["seconds"]
        print(
            f"{name:<16} {entry['seconds']:>8.2f} {entry['seconds'] / own:>7.1f} "
            f"{entry['likelihood']:>11.3f} {entry['npmi']:>7.3f} {entry['diversity']:>10.2f} "
            f"{entry['peak'] / _MIB:>9,.0f} {entry['growth'] / _MIB:>11,.0f}",
            flush=True,
        )
        yield entry


def scale(options: argparse.Namespace, folder: Path) -> Iterator[Any]:
    """How lexbeam's time grows; the ratio is over the first line of a part."""
    few, many = options.documents
    threads, topics = options.threads, options.num_topics
    cases = {
        "threads": [(topics, 1, few), (topics, threads, few)],
        "documents": [(topics, threads, few), (topics, threads, many)],
        "topics": [(topics, threads, few), (4 * topics, threads, few)],
    }
    print(SCALING_HEADER)
    for part in (part for part in cases if part in options.parts):
        first = None
        for num_topics, num_threads, documents in cases[part]:
            task = (num_topics, num_threads, documents)
            entry = measure(options, folder, "lexbeam", task)
            first = first or entry["seconds"]
            print(
                f"{part:<11} {num_topics:>6} {num_threads:>8} {documents:>10,} "
                f"{entry['seconds']:>8.2f} {entry['seconds'] / first:>7.2f} "
                f"{entry['growth'] / _MIB:>11,.0f}",
                flush=True,
            )
            yield entry | {"part": part}


def comma_list(text: str, known: Sequence[str]) -> list[str]:
    """Names between commas, each of them known."""
    names = text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"choose from {','.join(known)}, not {unknown[0]!r}")
    return names


def parser_of() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers, parts = tuple(PEERS), PARTS
    parser.add_argument("--input", type=Path, action="append", required=True, metavar="CORPUS")
    parser.add_argument("--num_topics", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--min_df", type=int, default=5)
    parser.add_argument("--documents", type=int, nargs=2, default=[10_000, 40_000], metavar="N")
    parser.add_argument("--peers", type=lambda text: comma_list(text, peers), default=[*peers])
    parser.add_argument("--parts", type=lambda text: comma_list(text, parts), default=[*parts])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--check", action="store_true", help="fail where lexbeam takes too much")
    return parser


def too_large(figures: Sequence[dict[str, Any]], terms: int) -> list[str]:
    """What fits of lexbeam added more than they may."""
    return [
        f"{entry['num_topics']} topics, {entry['threads']} threads: "
        f"{entry['growth'] / _MIB:,.0f} MiB added"
        for entry in figures
        if entry["peer"] == "lexbeam"
        and entry["growth"] > bound_of(terms, entry["num_topics"], entry["threads"])
    ]


def main() -> None:
    """Measure and print the tables."""
    if sys.argv[1:2] == ["--child"]:
        step, *rest = sys.argv[2:]
        print(json.dumps(CHILDREN[step](*rest)))
        return
    options = parser_of().parse_args()
    with tempfile.TemporaryDirectory(prefix="lexbeam-lda-") as temporary:
        folder = Path(temporary)
        corpus, _ = run_child("prepare", folder, options.min_df, *options.input)
        print(
            f"{corpus['documents']:,} documents ({corpus['held_out']:,} more held out), "
            f"{corpus['terms']:,} terms, {corpus['tokens']:,} tokens, {options.num_topics} topics, "
            f"{options.threads} threads",
            flush=True,
        )
        figures = list(compare(options, folder, corpus)) if "peers" in options.parts else []
        if {"threads", "documents", "topics"} & set(options.parts):
            figures += scale(options, folder)
    if options.json is not None:
        text = json.dumps({"corpus": corpus, "figures": figures}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    problems = too_large(figures, corpus["terms"])
    if options.check and problems:
        sys.exit("too much memory: " + "; ".join(problems))


if __name__ == "__main__":
    main()
