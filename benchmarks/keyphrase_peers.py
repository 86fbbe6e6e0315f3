"""Other libraries' keyphrases of texts, one document at a time, on one core.

    python benchmarks/keyphrase_peers.py PEER --language zh|en [--top_k 10]
        [--model_id NAME] < TEXTS

TEXTS is a JSON list of strings. Prints JSON: `lists`, for each text the keyphrases, best first, and
`seconds` for all of them, after one text for warming up. `keyphrases.py` beside this file compares
them; the packages are in keyphrases-peers.txt.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

PEERS_FILE = Path(__file__).with_name("keyphrases-peers.txt")

Extract = Callable[[str], list[str]]


class Job(NamedTuple):
    """What every extractor is made for."""

    language: str
    model_id: str
    top_k: int


# --- peers: each makes a function from a text to its keyphrases, best first


def first(found: Sequence[Any], top_k: int) -> list[str]:
    """Phrases of (phrase, score) pairs."""
    return [str(phrase) for phrase, _ in found[:top_k]]


def joined_chinese(phrases: Sequence[str]) -> list[str]:
    """Phrases of words that had to be separated by spaces, without them."""
    return ["".join(phrase.split()) for phrase in phrases]


def jieba_tfidf(job: Job) -> Extract:
    """`jieba.analyse.extract_tags`."""
    from lexbeam.models.keyphrase_baselines import jieba_keywords

    return lambda text: jieba_keywords([text], "tfidf", job.top_k)[0]


def jieba_textrank(job: Job) -> Extract:
    """`jieba.analyse.textrank`."""
    from lexbeam.models.keyphrase_baselines import jieba_keywords

    return lambda text: jieba_keywords([text], "textrank", job.top_k)[0]


def yake(job: Job) -> Extract:
    """YAKE with up to three words; Chinese is separated by jieba, since YAKE splits at spaces."""
    import jieba
    from yake import KeywordExtractor

    extractor = KeywordExtractor(lan=job.language, n=3, top=job.top_k)
    if job.language != "zh":
        return lambda text: first(extractor.extract_keywords(text), job.top_k)

    def extract(text: str) -> list[str]:
        separated = " ".join(jieba.cut(text))
        return joined_chinese(first(extractor.extract_keywords(separated), job.top_k))

    return extract


def modern_networkx() -> None:
    """Gives networkx back two names that libraries of its second version still use."""
    import networkx

    networkx.from_numpy_matrix = networkx.from_numpy_array
    networkx.pagerank_scipy = networkx.pagerank


def kex_ranker(name: str, job: Job) -> Extract:
    """A graph ranker of kex, which follows pke.

    kex fetches a tagger and a stop list when it is first used; textblob's tagger and scikit-learn's
    list, which ship with their packages, take their place.
    """
    modern_networkx()
    import kex
    from kex import _phrase_constructor
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
    from textblob.en import parser

    _phrase_constructor.pos_tag = parser.find_tags
    _phrase_constructor.get_stopwords_list = lambda *_, **__: list(ENGLISH_STOP_WORDS)
    ranker = getattr(kex, name)()

    def extract(text: str) -> list[str]:
        return [found["raw"][0] for found in ranker.get_keywords(text, n_keywords=job.top_k)]

    return extract


def multi_rake(job: Job) -> Extract:
    """RAKE."""
    from multi_rake import Rake

    rake = Rake(language_code=job.language)
    return lambda text: first(rake.apply(text), job.top_k)


def pke_zh_ranker(name: str, job: Job) -> Extract:
    """An extractor of pke-zh."""
    modern_networkx()
    import pke_zh

    extractor = getattr(pke_zh, name)()
    return lambda text: first(extractor.extract(text, job.top_k), job.top_k)


def textrank4zh(job: Job) -> Extract:
    """TextRank4ZH: its phrases, then its words."""
    modern_networkx()
    from textrank4zh import TextRank4Keyword

    def extract(text: str) -> list[str]:
        ranker = TextRank4Keyword()
        ranker.analyze(text=text, lower=True)
        phrases = ranker.get_keyphrases(keywords_num=20, min_occur_num=2)
        return [*phrases, *(item.word for item in ranker.get_keywords(job.top_k))][: job.top_k]

    return extract


def keybert(job: Job) -> Extract:
    """KeyBERT with lexbeam's model: up to three words; Chinese is cut by jieba."""
    import jieba
    from keybert import KeyBERT
    from sentence_transformers import SentenceTransformer
    from sklearn.feature_extraction.text import CountVectorizer

    from lexbeam.models.catalogue import resolve_model

    directory = resolve_model(job.model_id, fetch=True).directory
    model = KeyBERT(model=SentenceTransformer(str(directory), device="cpu"))
    if job.language == "zh":
        vectorizer = CountVectorizer(
            tokenizer=jieba.lcut, token_pattern=None, ngram_range=(1, 3), lowercase=False
        )
    else:
        vectorizer = CountVectorizer(ngram_range=(1, 3), stop_words="english")

    def extract(text: str) -> list[str]:
        found = first(
            model.extract_keywords(text, vectorizer=vectorizer, top_n=job.top_k), job.top_k
        )
        return joined_chinese(found) if job.language == "zh" else found

    return extract


class Peer(NamedTuple):
    """A library.

    Attributes:
        label: of its row.
        languages: that it can do.
        module: what has to be importable.
        make: makes its extractor.
        is_slow: does the first documents alone.
    """

    label: str
    languages: tuple[str, ...]
    module: str
    make: Callable[[Job], Extract]
    is_slow: bool = False


PEERS = {
    "jieba_tfidf": Peer("jieba TF-IDF", ("zh",), "jieba", jieba_tfidf),
    "jieba_textrank": Peer("jieba TextRank", ("zh",), "jieba", jieba_textrank),
    "yake": Peer("YAKE", ("zh", "en"), "yake", yake),
    "kex_singlerank": Peer("kex SingleRank", ("en",), "kex", partial(kex_ranker, "SingleRank")),
    "kex_positionrank": Peer(
        "kex PositionRank", ("en",), "kex", partial(kex_ranker, "PositionRank")
    ),
    "kex_topicrank": Peer("kex TopicRank", ("en",), "kex", partial(kex_ranker, "TopicRank")),
    "multi_rake": Peer("multi_rake RAKE", ("en",), "multi_rake", multi_rake),
    "pke_zh_tfidf": Peer("pke-zh TfIdf", ("zh",), "pke_zh", partial(pke_zh_ranker, "TfIdf")),
    "pke_zh_multipartite": Peer(
        "pke-zh MultipartiteRank", ("zh",), "pke_zh", partial(pke_zh_ranker, "MultipartiteRank")
    ),
    "textrank4zh": Peer("TextRank4ZH", ("zh",), "textrank4zh", textrank4zh),
    "keybert": Peer("KeyBERT, same model", ("zh", "en"), "keybert", keybert, is_slow=True),
}  # fmt: skip


def require_peers(names: Sequence[str]) -> None:
    """Ends the script where a peer is unknown or not installed."""
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise SystemExit(f"--peers: no {', '.join(unknown)}; there are {', '.join(PEERS)}")
    modules = sorted({PEERS[name].module for name in names})
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise SystemExit(
            f"not installed: {', '.join(missing)}. Either leave their rows out by --peers, or\n"
            f"  pip install --no-deps -r {os.path.relpath(PEERS_FILE)}"
        )


def use_one_core() -> None:
    """Keeps this process on one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def main() -> None:
    """Extract from the texts on stdin."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--language", choices=("zh", "en"), required=True)
    parser.add_argument("--top_k", type=int, default=10)
    parser.add_argument("--model_id", default="multilingual-e5-small-q4", help="of KeyBERT")
    options = parser.parse_args()
    use_one_core()
    warnings.simplefilter("ignore")  # of the peers
    texts = json.load(sys.stdin)
    extract = PEERS[options.peer].make(Job(options.language, options.model_id, options.top_k))
    extract(texts[0])
    began = time.perf_counter()
    lists = [extract(text) for text in texts]
    print(json.dumps({"seconds": time.perf_counter() - began, "lists": lists}))


if __name__ == "__main__":
    main()
