"""Keyphrases against gold ones: lexbeam's columns beside the libraries that people use today.

    python benchmarks/keyphrases.py --gold corpus.jsonl [more.jsonl] [--text_only] [--k 5,10]
        [--limit N] [--peers yake,kex_singlerank,…|none] [--slow_documents 200]
        [--timed_documents 200] [--features tfidf,textrank,lda,bert] [--json FILE]

Gold corpora are JSON lines with `id`, `text`, `keywords` and maybe `title`. Each is run by `lexbeam
run` as a corpus of its own and scored as `lexbeam evaluate` scores (see its --help); the peers get
the same contents, title and text, one document at a time, each in a process of its own on one core,
and are scored in the same way. Their packages are not lexbeam's: see keyphrases-peers.txt.

ms is what a document takes on one core, from its text to its list: all documents for the peers,
after one for warming up; for lexbeam the first `--timed_documents`, by the median of three runs,
tokenizing and, where the list needs it, encoding included. Below the table: what the fused keywords
cost beyond tokenizing and encoding. KeyBERT, which encodes every candidate, does the first
`--slow_documents` alone, and is compared on them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from keyphrase_peers import PEERS, require_peers, use_one_core

# Before anything that reads them is imported: every process measured here has one core.
_ONE_CORE = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
_PEERS_SCRIPT = str(Path(__file__).with_name("keyphrase_peers.py"))
_RUNS = 3
# A language of fewer documents is one that the text was taken for by mistake.
_FEWEST_DOCUMENTS = 10


def run_child(*command: str, given: Any) -> dict[str, Any]:
    """What a process of Python prints; ends the script where it fails."""
    command = (sys.executable, *command)
    result = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, env=os.environ | _ONE_CORE
    )
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command[1:3])} failed:\n{result.stderr[-2_000:]}")
    return dict(json.loads(result.stdout.splitlines()[-1]))


# What each column's list takes, of the steps that are timed.
STEPS = {
    "keywords_tfidf": ("tokens", "tfidf"),
    "keywords_textrank": ("tokens", "block", "word graph", "textrank"),
    "keywords_lda": ("tokens", "topics"),
    "keywords_bert": ("tokens", "encoding", "block", "candidates", "attention"),
    "keywords": ("tokens", "encoding", "block", "word graph", "candidates", "fusion"),
}
# What the fused keywords cost where documents are tokenized and encoded anyhow.
FUSED_ALONE = ("block", "word graph", "candidates", "fusion")


def time_steps(run_path: str) -> None:
    """Time a run's steps on the contents on stdin; prints seconds by step and words as JSON."""
    use_one_core()
    from lexbeam.models import schemas
    from lexbeam.models.features import FeatureConfig, FeatureModels
    from lexbeam.pipeline.evaluation_documents import run_tokenizer
    from lexbeam.pipeline.plan import read_plan
    from lexbeam.pipeline.runs import find_run

    run = find_run(run_path)
    plan = read_plan(run)
    config = FeatureConfig(plan.config.features, plan.config.top_k, plan.model_dir(run))
    steps = LexbeamSteps(run_tokenizer(run, plan), FeatureModels.load(config), config)
    contents, language = json.load(sys.stdin)
    encoded, seconds = encode(plan, contents)
    runs = [steps.times(contents, language, encoded) for _ in range(1 + _RUNS)]
    # The first one compiles.
    medians = {step: statistics.median(times[step] for times in runs[1:]) for step in runs[0]}
    kinds = steps.tokenized(contents, language)["kinds"].flatten().to_numpy()
    words = int((kinds != schemas.SENTENCE_END).sum())
    print(json.dumps({"seconds": medians | {"encoding": seconds}, "words": words}))


def encode(plan: Any, contents: list[str]) -> tuple[Any, float]:
    """Encodings by the run's model and the seconds they take; None and 0 without one."""
    if plan.encoder is None:
        return None, 0.0
    from lexbeam.models.encoder import cached_encoder

    encoder = cached_encoder(plan.encoder, plan.config.encoder, 1)
    encoder.encode(contents[:16])
    began = time.perf_counter()
    return encoder.encode(contents), time.perf_counter() - began


class LexbeamSteps(NamedTuple):
    """What computes the columns of a block of documents, step by step."""

    tokenizer: Any
    models: Any
    config: Any

    def tokenized(self, contents: list[str], language: str) -> Any:
        """A batch with content, language and tokens."""
        import pyarrow as pa

        columns = [pa.array(contents), pa.array([language] * len(contents))]
        tokens = self.tokenizer.tokenize(*columns)
        names = ["content", "language", *tokens.schema.names]
        return pa.RecordBatch.from_arrays([*columns, *tokens.columns], names=names)

    def times(self, contents: list[str], language: str, encoded: Any) -> dict[str, float]:
        """Seconds of each step."""
        from lexbeam.models import counts, keyphrases, lda, textrank, tfidf
        from lexbeam.models.keyphrase_candidates import find_candidates
        from lexbeam.models.token_blocks import TokenBlock

        watch = Stopwatch()
        batch = self.tokenized(contents, language)
        watch.lap("tokens")
        block = TokenBlock.from_batch(batch)
        watch.lap("block")
        scores = textrank.word_scores(batch, self.config.textrank, block=block)
        watch.lap("word graph")
        textrank.keywords_textrank(batch, self.config.top_k, self.config.textrank, scores)
        watch.lap("textrank")
        found = find_candidates(batch, block)
        watch.lap("candidates")
        keyphrases.keywords(
            batch, self.models.phrases, encoded, self.config.top_k,
            word_scores=scores, candidates=found,
        )  # fmt: skip
        watch.lap("fusion")
        if encoded is not None:
            keyphrases.keywords_bert(batch, encoded, self.config.top_k, found)
            watch.lap("attention")
        terms = counts.term_lists(batch["tokens"], batch["kinds"])
        bow = self.models.vocabulary.bag_of_words(terms)
        watch.lap("bags")
        tfidf.top_terms(bow, self.models.vocabulary, self.config.top_k)
        watch.lap("tfidf")
        if self.models.lda is not None:
            theta = lda.fold_in(bow, self.models.lda)
            terms = self.models.vocabulary.terms
            lda.keywords_lda(bow, theta, self.models.lda, terms, self.config.top_k)
            watch.lap("topics")
        return watch.seconds


class Stopwatch:
    """Seconds of each step since the one before it."""

    def __init__(self) -> None:
        """Start."""
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        """The step has ended."""
        now = time.perf_counter()
        self.seconds[step], self._last = now - self._last, now


# --- one gold corpus


def write_corpus(path: Path, options: argparse.Namespace, folder: Path) -> Path:
    """The first documents of a gold corpus, without titles where asked."""
    target = folder / path.name
    with path.open(encoding="utf-8") as lines, target.open("w", encoding="utf-8") as out:
        for line in itertools.islice(filter(str.strip, lines), options.limit):
            document = json.loads(line)
            if options.text_only:
                document.pop("title", None)
            out.write(json.dumps(document, ensure_ascii=False) + "\n")
    return target


def run_lexbeam(corpus: Path, output: Path, options: argparse.Namespace) -> None:
    """Run the corpus; ends the script where that fails."""
    command = [sys.executable, "-m", "lexbeam.pipeline.cli", "run", "--quiet"]
    command += ["--input", str(corpus), "--output", str(output), "--features", options.features]
    command += ["--num_topics", str(options.num_topics)]
    if options.model_id:
        command += ["--model_id", options.model_id]
    if subprocess.run(command).returncode != 0:
        raise SystemExit(f"lexbeam run of {corpus.name} failed, see above")


def compare(corpus: Path, output: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A section of `lexbeam evaluate` for each language, with the peers' rows and `ms` in all.

    Languages of fewer than 10 documents are left out.
    """
    from lexbeam.pipeline import evaluate
    from lexbeam.pipeline.gold import read_gold
    from lexbeam.pipeline.runs import find_run

    settings = evaluate.EvaluationOptions(ks=options.k)
    run = find_run(str(output))
    plan = evaluate.load(run, settings.ks)
    matched = evaluate.match(run, plan, read_gold(str(corpus)))
    for section in evaluate.evaluate(run, plan, [matched], settings)["sections"]:
        if section["documents"] < _FEWEST_DOCUMENTS:
            continue
        documents = matched.of_language(section["language"])
        gold = matched.gold_documents(documents)
        contents = [document.content or "" for document in documents]
        fused = [list(document.keywords["keywords"]) for document in documents]
        add_times(section, run.path, contents[: options.timed_documents])
        for name in options.peers:
            peer = PEERS[name]
            if section["language"] not in peer.languages:
                continue
            # jieba is one of evaluate's baselines, too, without its time.
            section["rows"] = [row for row in section["rows"] if row["name"] != peer.label]
            number = options.slow_documents if peer.is_slow else len(contents)
            job = ["--language", section["language"], "--top_k", str(max(settings.ks))]
            command = [_PEERS_SCRIPT, name, *job, "--model_id", plan.config.encoder.model_id]
            said = run_child(*command, given=contents[:number])
            lists = {"keywords": fused[:number], peer.label: said["lists"]}
            row = evaluate.score_row(peer.label, lists, gold[:number], settings, "peer")
            row["ms"] = 1_000 * said["seconds"] / len(said["lists"])
            section["rows"].append(row)
        yield section


def add_times(section: dict[str, Any], run_path: str, contents: list[str]) -> None:
    """Put ms a document into the columns' rows, and the fused keywords' own cost beside them."""
    said = run_child(__file__, "--child", run_path, given=[contents, section["language"]])
    seconds = {step: 1_000 * value / len(contents) for step, value in said["seconds"].items()}
    seconds["tfidf"] += seconds["bags"]
    if "topics" in seconds:
        seconds["topics"] += seconds["bags"]
    for row in section["rows"]:
        steps = STEPS.get(row["name"], ())
        row["ms"] = sum(seconds[step] for step in steps) if steps else None
    section["cost"] = {
        "documents": len(contents),
        "words": said["words"] / len(contents),
        "fused_ms": sum(seconds[step] for step in FUSED_ALONE),
        "encoding_ms": seconds["encoding"],
        "steps_ms": seconds,
    }


# --- output


def section_lines(section: dict[str, Any]) -> Iterator[str]:
    """The tables of one gold corpus and language."""
    from lexbeam.pipeline.tables import table

    yield f"{section['gold']} ({section['language']}), {section['documents']:,} documents"
    for k in section["rows"][0]["at"]:
        rows = sorted(section["rows"], key=lambda row: -row["at"][k]["all"]["macro"]["f1"])
        header = [f"at {k}", "documents", "P", "R", "F", "present F", "ms", "fused better by"]
        yield ""
        yield from table([cells(row, k) for row in rows], header=header, right=range(1, 7))
    cost = section["cost"]
    yield ""
    encoding, share = cost["encoding_ms"], ""
    if encoding:
        share = f", {cost['fused_ms'] / encoding:.1%} of encoding ({encoding:.1f} ms)"
    yield (
        f"the fused keywords beyond tokenizing and encoding: {cost['fused_ms']:.2f} ms a document "
        f"of {cost['words']:.0f} words{share}"
    )
    yield ""


def cells(row: dict[str, Any], k: str) -> list[str]:
    """A row as it is shown."""
    at = row["at"][k]
    macro = at["all"]["macro"]
    figures = [f"{100 * macro[name]:.1f}" for name in ("precision", "recall", "f1")]
    present = f"{100 * at['present']['macro']['f1']:.1f}"
    better = at.get("fused_better_by")
    difference = better and (
        f"{100 * better['mean']:+.1f} [{100 * better['low']:+.1f}, {100 * better['high']:+.1f}]"
    )
    name = f"lexbeam {row['name']}" if row["kind"] == "column" else row["name"]
    ms = "–" if row["ms"] is None else f"{row['ms']:.2f}"
    documents = f"{at['all']['documents']:,}"
    return [name, documents, *figures, present, ms, difference or ""]


def parser_of() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--gold", type=Path, nargs="+", action="extend", required=True, metavar="CORPUS")
    add("--text_only", action="store_true", help="leave the titles out")
    add("--k", type=lambda text: tuple(map(int, text.split(","))), default=(5, 10), metavar="K,K")
    add("--limit", type=int, metavar="N", help="the first documents of each corpus")
    add("--peers", default=",".join(PEERS), help="'none', or any of %(default)s")
    add("--slow_documents", type=int, default=200, metavar="N", help="of KeyBERT")
    add("--timed_documents", type=int, default=200, metavar="N", help="of lexbeam's ms")
    add("--features", default="tfidf,textrank,lda,bert", help="of lexbeam run")
    add("--model_id", help="of lexbeam run and of KeyBERT")
    add("--num_topics", type=int, default=20)
    add("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def main() -> None:
    """Compare on every gold corpus; as a child, time lexbeam's steps."""
    if sys.argv[1:2] == ["--child"]:
        return time_steps(*sys.argv[2:])
    options = parser_of().parse_args()
    options.peers = [] if options.peers == "none" else options.peers.split(",")
    require_peers(options.peers)
    sections = []
    with tempfile.TemporaryDirectory() as name:
        for number, path in enumerate(options.gold):
            folder = Path(name, str(number))
            folder.mkdir()
            corpus = write_corpus(path, options, folder)
            run_lexbeam(corpus, folder / "out", options)
            for section in compare(corpus, folder / "out", options):
                print("\n".join(section_lines(section)), flush=True)
                sections.append(section)
    if options.json:
        options.json.write_text(json.dumps(sections, indent=2) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
