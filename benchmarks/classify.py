"""A classifier of `lexbeam finetune` beside TF-IDF and logistic regression, on the same split.

    python benchmarks/classify.py --input corpus.jsonl --model MODEL [--model MORE]

Documents are JSON lines with `id`, `text`, `label` and maybe `title`; each model was fine-tuned on
them. Those in its held_out.jsonl are asked for, the others are learned from: by scikit-learn's
TfidfVectorizer over jieba's words (Chinese) or letters and digits (else), and LogisticRegression
with C of 1 and of 10. The better of the two is shown: it was chosen by the held-out documents, in
its favour.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from lexbeam.transforms.read_rows import make_content

STRENGTHS = (1.0, 10.0)


def words(text: str) -> list[str]:
    """Of jieba where a text has Han characters; else what lies between what is no letter."""
    if re.search(r"[一-鿿]", text):
        import jieba

        return [word for word in jieba.lcut(text) if word.strip()]
    return re.findall(r"\w+", text.lower())


def peer(texts: dict[str, str], labels: dict[str, str], held_out: set[str]) -> tuple[float, float]:
    """Accuracy and macro F1 of the better regression."""
    train = [name for name in texts if name not in held_out]
    test = [name for name in texts if name in held_out]
    vectorizer = TfidfVectorizer(analyzer=words)
    known = vectorizer.fit_transform([texts[name] for name in train])
    asked = vectorizer.transform([texts[name] for name in test])
    expected = [labels[name] for name in test]
    scores = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=2000)
        foretold = model.fit(known, [labels[name] for name in train]).predict(asked)
        macro = f1_score(expected, foretold, average="macro")
        scores.append((float(accuracy_score(expected, foretold)), float(macro)))
    return max(scores)


def main() -> None:
    """A line for each model, and the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--model", type=Path, action="append", required=True)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.input.read_text(encoding="utf-8").splitlines()]
    texts = {str(row["id"]): make_content(row.get("title"), row["text"]) for row in rows}
    labels = {str(row["id"]): str(row["label"]) for row in rows}
    ours, theirs = [], []
    print(f"{options.input.stem}: {len(rows):,} documents of {len(set(labels.values()))} classes")
    for folder in options.model:
        record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        lines = (folder / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
        held_out = {json.loads(line)["doc_id"] for line in lines}
        accuracy, macro = peer(texts, labels, held_out)
        after = record["after"]
        ours.append(after["accuracy"])
        theirs.append(accuracy)
        print(
            f"  {folder.name:<12} seed {record['identity']['seed']}, {len(held_out):,} held out: "
            f"lexbeam {after['accuracy']:.4f} (macro F1 {after['macro_f1']:.4f})  "
            f"TF-IDF {accuracy:.4f} ({macro:.4f})  {record['seconds']['train'] / 60:.1f} min"
        )
    print(
        f"  mean  lexbeam {statistics.mean(ours):.4f}  TF-IDF {statistics.mean(theirs):.4f}  "
        f"no worse in {np.sum(np.array(ours) >= np.array(theirs))} of {len(ours)}"
    )


if __name__ == "__main__":
    main()
