"""Whole commands: the script that people write today, against `lexbeam run`.

    python benchmarks/end_to_end.py --input corpus.jsonl [--limit 500] [--without_bert | --int8]
        [--runs 3]

Both run as processes of their own, imports included, on the same documents and cores. The script
is jieba + scikit-learn + jieba.analyse + gensim + sentence-transformers, as documented by them.
`--int8` runs lexbeam a second time with 8-bit encoding. Models are fetched and converted before.
Prints seconds (median, least and most) and the ratio of the script's to lexbeam's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = """
import json, sys
import jieba, jieba.analyse
from gensim.corpora import Dictionary
from gensim.models import LdaMulticore
from sklearn.feature_extraction.text import TfidfVectorizer

documents = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
texts = [document["text"] for document in documents]
tfidf = TfidfVectorizer(tokenizer=jieba.lcut, token_pattern=None, min_df=min(2, len(texts)))
matrix = tfidf.fit_transform(texts)
for text in texts:
    jieba.analyse.textrank(text, topK=20)
words = [jieba.lcut(text) for text in texts]
dictionary = Dictionary(words)
bags = [dictionary.doc2bow(document) for document in words]
LdaMulticore(bags, num_topics=int(sys.argv[3]), id2word=dictionary, passes=5, workers=1)
if sys.argv[2] != "none":
    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer(sys.argv[2], device="cpu")
    model.max_seq_length = 256
    model.encode(["passage: " + text for text in texts], normalize_embeddings=True)
"""


def seconds_of(command: list[str]) -> float:
    """Wall seconds of one process; raises CalledProcessError where it fails."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.perf_counter() - began


def first_documents(path: Path, limit: int | None, folder: Path) -> Path:
    """The first documents of a JSONL file, with title and text joined as lexbeam joins them."""
    lines = path.read_text(encoding="utf-8").splitlines()[:limit]
    target = folder / "documents.jsonl"
    with target.open("w", encoding="utf-8") as out:
        for line in lines:
            document = json.loads(line)
            title = document.get("title")
            text = f"{title}\n{document['text']}" if title else document["text"]
            out.write(json.dumps({"id": document["id"], "text": text}, ensure_ascii=False) + "\n")
    return target


def commands(documents: Path, options: argparse.Namespace, model: str) -> dict[str, list[str]]:
    """The command lines by name; `{out}` is filled in for each run."""
    script = [sys.executable, "-c", SCRIPT, str(documents), model, str(options.num_topics)]
    lexbeam = [sys.executable, "-m", "lexbeam.pipeline.cli", "run", "--quiet"]
    lexbeam += ["--input", str(documents), "--output", "{out}"]
    lexbeam += ["--num_topics", str(options.num_topics)]
    if options.without_bert:
        return {"script": script, "lexbeam": [*lexbeam, "--features", "tfidf,textrank,lda"]}
    lexbeam += ["--max_seq_length", "256", "--long_documents", "truncate"]
    found = {"script": script, "lexbeam": lexbeam}
    if options.int8:
        found["lexbeam int8"] = [*lexbeam, "--dtype", "int8"]
    return found


def prepare(options: argparse.Namespace) -> str:
    """Fetch and convert the model; its directory, or `none` where there is no encoding."""
    if options.without_bert:
        return "none"
    from lexbeam.models.catalogue import resolve_model
    from lexbeam.models.config import EncoderConfig
    from lexbeam.models.encoder import prepare_encoder
    from lexbeam.models.encoder_backend import resolve_backend

    spec = resolve_model(EncoderConfig().model_id, fetch=True)
    for dtype in ("auto", *(["int8"] if options.int8 else [])):
        prepare_encoder(spec, resolve_backend(spec, EncoderConfig(dtype=dtype)))
    return str(spec.directory)


def main() -> None:
    """Run all in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--num_topics", type=int, default=50)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--without_bert", action="store_true")
    which.add_argument("--int8", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    model = prepare(options)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        documents = first_documents(options.input, options.limit, Path(folder))
        for run in range(options.runs):
            for name, command in commands(documents, options, model).items():
                out = str(Path(folder, f"out-{name}-{run}"))
                spent = seconds_of([part.replace("{out}", out) for part in command])
                seconds.setdefault(name, []).append(spent)
    for name, values in seconds.items():
        ratios = [script / own for script, own in zip(seconds["script"], values, strict=True)]
        print(
            f"{name:12} {statistics.median(values):7.1f} s  ({min(values):.1f} to "
            f"{max(values):.1f})  ratio {statistics.median(ratios):.1f}"
        )


if __name__ == "__main__":
    main()
