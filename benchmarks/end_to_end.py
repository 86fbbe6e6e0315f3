"""Whole commands: the script that people write today, against `lexbeam run`.

    python benchmarks/end_to_end.py --input corpus.jsonl [--limit 500] [--without_bert] [--runs 3]

Both run as processes of their own, imports included, on the same documents and cores. The script
is jieba + scikit-learn + jieba.analyse + gensim + sentence-transformers, as documented by them.
Prints seconds (median, least and most) and the ratio.
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
    """The two command lines; `{out}` is filled in for each run."""
    script = [sys.executable, "-c", SCRIPT, str(documents), model, str(options.num_topics)]
    lexbeam = [sys.executable, "-m", "lexbeam.pipeline.cli", "run", "--quiet"]
    lexbeam += ["--input", str(documents), "--output", "{out}"]
    lexbeam += ["--num_topics", str(options.num_topics)]
    if options.without_bert:
        lexbeam += ["--features", "tfidf,textrank,lda"]
    else:
        lexbeam += ["--max_seq_length", "256", "--long_documents", "truncate"]
    return {"script": script, "lexbeam": lexbeam}


def main() -> None:
    """Run both in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--num_topics", type=int, default=50)
    parser.add_argument("--without_bert", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    from lexbeam.models.catalogue import pull

    model = "none" if options.without_bert else str(pull("multilingual-e5-small-q4"))
    seconds: dict[str, list[float]] = {"script": [], "lexbeam": []}
    with tempfile.TemporaryDirectory() as folder:
        documents = first_documents(options.input, options.limit, Path(folder))
        for run in range(options.runs):
            for name, command in commands(documents, options, model).items():
                out = str(Path(folder, f"out{run}"))
                seconds[name].append(seconds_of([part.replace("{out}", out) for part in command]))
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:8} {median:7.1f} s  ({min(values):.1f} to {max(values):.1f})")
    ratios = [a / b for a, b in zip(seconds["script"], seconds["lexbeam"], strict=True)]
    print(f"ratio    {statistics.median(ratios):7.1f}")


if __name__ == "__main__":
    main()
