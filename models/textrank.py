"""TextRank (Mihalcea and Tarau 2004): words ranked by PageRank on a document's word graph.

The graph of a document, so that it can be rebuilt with networkx:

- **Nodes.** The distinct tokens of kind `schemas.TERM` that are content words. Chinese: those
  whose tag in jieba's dictionary begins with n, v or a (a word that the dictionary lacks is no
  node), and the words of the user's dictionary with such a tag or none; English:
  `word_classes.english_class` is `noun` or `adjective`; other languages: all.
- **Sequence.** The tokens that are nodes, in the order of the text, cut at every token of kind
  `schemas.SENTENCE_END`. Tokens that are no nodes leave no gap.
- **Edges.** Undirected. The weight of {a, b}, a != b, is the number of pairs of places i < j of
  one sequence with j - i < `window_size` where a stands at one and b at the other.
- **Score.** `networkx.pagerank(graph, alpha=damping, tol=tolerance)`: a node without an edge
  (dangling) gives its score to all nodes alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lexbeam.models import phrase_strings, schemas, textrank_kernels, word_classes, word_flags
from lexbeam.models.config import LANGUAGES, TextRankConfig
from lexbeam.models.counts import make_lists, row_offsets
from lexbeam.models.phrase_kernels import best_places, number_by_document
from lexbeam.models.textrank_kernels import Float64Array, Graph, Int64Array
from lexbeam.models.token_blocks import BoolArray, TokenBlock
from lexbeam.models.tokens import normalise
from lexbeam.models.user_dict import UserWord

MAX_PHRASE_WORDS = 5


@dataclass(frozen=True)
class WordScores:
    """TextRank scores of a block's words.

    Attributes:
        block: the tokens.
        offsets: (num_documents + 1,) where each document's nodes begin and end.
        terms: (num_nodes,) string, in order of first appearance in the document.
        scores: (num_nodes,) float64; a document's scores sum to 1.
        token_nodes: (num_tokens,) node of each token of the block, -1 for those that have none.
    """

    block: TokenBlock
    offsets: Int64Array
    terms: pa.StringArray
    scores: Float64Array
    token_nodes: Int64Array

    @property
    def token_scores(self) -> Float64Array:
        """(num_tokens,) score of each token of the block, 0 for those that are no nodes."""
        scores = np.append(self.scores, 0.0)
        return scores[self.token_nodes]


def build_graph(
    nodes: npt.ArrayLike, sentences: npt.ArrayLike, num_nodes: int, window_size: int = 10
) -> Graph:
    """Co-occurrence graph of one document.

    Args:
        nodes: (length,) node of each kept token in the order of the text, 0 <= node < num_nodes.
        sentences: (length,) number of the sentence of each, ascending.
        num_nodes: nodes of the graph.
        window_size: two places co-occur when they are less than this apart.

    Returns:
        The symmetric weight matrix in compressed sparse rows: (num_nodes + 1,) int64 offsets,
        (nnz,) int32 neighbours, (nnz,) float64 weights; each edge stands in both its rows.

    Raises:
        ValueError: the two sequences differ in length, or a node is out of range.
    """
    node_array = np.asarray(nodes, dtype=np.int32)
    sentence_array = np.asarray(sentences, dtype=np.int32)
    if node_array.shape != sentence_array.shape:
        raise ValueError("nodes and sentences must have the same length")
    if len(node_array) and not 0 <= node_array.min() <= node_array.max() < num_nodes:
        raise ValueError(f"a node is out of range(0, {num_nodes})")
    graph: Graph = textrank_kernels.graph_of(node_array, sentence_array, num_nodes, window_size)
    return graph


def pagerank(graph: Graph, config: TextRankConfig | None = None) -> Float64Array:
    """PageRank by power iteration from the uniform distribution, as networkx does it.

    Args:
        graph: as `build_graph` gives it.
        config: damping; the iteration ends when the L1 norm of a step is below
            num_nodes * tolerance (the rule of networkx), or after max_iterations.

    Returns:
        (num_nodes,) float64, summing to 1.
    """
    config = config or TextRankConfig()
    scores: Float64Array = textrank_kernels.power_iteration(
        *graph, config.damping, config.tolerance, config.max_iterations
    )
    return scores


def word_scores(
    batch: pa.RecordBatch,
    config: TextRankConfig,
    user_words: frozenset[str] = frozenset(),
    block: TokenBlock | None = None,
) -> WordScores:
    """TextRank scores of the words of every document.

    Args:
        batch: columns language, tokens, kinds, starts, ends of `schemas.TOKEN_FIELDS`; rows
            without tokens have no nodes.
        config: window and PageRank.
        user_words: words of the user's dictionary, normalised, that are content words of Chinese.
        block: `TokenBlock.from_batch(batch)`, where it is there already.

    Raises:
        ValueError: the columns are not aligned, or a language is unknown.
    """
    block = block or TokenBlock.from_batch(batch)
    offsets, codes, scores, token_nodes = textrank_kernels.score_block(
        block.offsets,
        block.codes,
        _is_node(block, user_words),
        block.kinds == schemas.SENTENCE_END,
        len(block.terms),
        config.window_size,
        config.damping,
        config.tolerance,
        config.max_iterations,
    )
    return WordScores(block, offsets, block.terms.take(pa.array(codes)), scores, token_nodes)


def keywords_textrank(
    batch: pa.RecordBatch,
    top_k: int,
    config: TextRankConfig,
    scores: WordScores | None = None,
) -> pa.ListArray:
    """Best words and phrases by TextRank (Mihalcea and Tarau 2004, section 3.1).

    The third of a document's nodes with the highest scores are selected, rounded up, and at least
    `top_k` of them. Selected words that stand side by side in the text (2 to `MAX_PHRASE_WORDS`
    of them; no token between, nor a space between two Han words) are merged into a phrase, whose
    score is the sum of its words' scores (Wan and Xiao 2008). A selected word is in the list on
    its own if it stands somewhere outside such a phrase. Words are joined by the gap in the text:
    a space or nothing.

    Args:
        batch: as for `word_scores`.
        top_k: keywords a document at most, at least 1.
        config: as for `word_scores`.
        scores: the result of `word_scores(batch, config)`, where it is there already.

    Returns:
        `schemas.KEYWORDS`, best first, equal float32 scores in term order; null where `tokens` is.

    Raises:
        ValueError: `top_k` is below 1.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    scores = word_scores(batch, config) if scores is None else scores
    block = scores.block
    firsts, lengths = _selected_runs(scores, _select_nodes(scores, top_k))
    run, places = phrase_strings.run_ids(block, firsts, lengths, block.codes)
    strings = phrase_strings.run_strings(
        block,
        firsts[places],
        lengths[places],
        block.codes,
        block.terms,
        np.zeros(len(places), np.bool_),
    ).dictionary_encode()
    string_ids = np.asarray(strings.indices, dtype=np.int64)[run]
    tokens = np.repeat(firsts - row_offsets(lengths)[:-1], lengths) + np.arange(lengths.sum())
    summed = np.bincount(
        np.repeat(np.arange(len(firsts)), lengths),
        weights=scores.token_scores[tokens],
        minlength=len(firsts),
    )
    documents = block.documents[firsts]
    number, where = number_by_document(documents, string_ids, len(strings.dictionary))
    # One string may be cut into words in two ways: the better one counts.
    best = np.zeros(len(where))
    np.maximum.at(best, number, summed)
    return rank_keywords(
        documents[where], strings.dictionary, string_ids[where], best, top_k, batch["tokens"]
    )


def rank_keywords(
    documents: Int64Array,
    strings: pa.StringArray,
    string_ids: Int64Array,
    scores: Float64Array,
    top_k: int,
    like: pa.ListArray,
) -> pa.ListArray:
    """Lists of the best keywords of each document.

    Args:
        documents: (n,) row of each keyword.
        strings: distinct strings.
        string_ids: (n,) index into `strings` of each keyword.
        scores: (n,), compared as float32.
        top_k: keywords a document at most.
        like: a list a document; null where the result shall be null.

    Returns:
        `schemas.KEYWORDS`, best first, equal scores in term order.
    """
    single = scores.astype(np.float32)
    order = np.lexsort((_term_ranks(strings)[string_ids], -single, documents))
    lengths = np.bincount(documents, minlength=len(like))
    place = np.arange(len(order)) - row_offsets(lengths)[documents[order]]
    chosen = order[place < top_k]
    pairs = pa.StructArray.from_arrays(
        [strings.take(pa.array(string_ids[chosen])), pa.array(single[chosen])],
        fields=list(schemas.KEYWORDS.value_type),
    )
    lists = make_lists(row_offsets(np.minimum(lengths, top_k)), pairs, like)
    return lists.cast(schemas.KEYWORDS)


def _term_ranks(strings: pa.StringArray) -> Int64Array:
    """Place of each string in UTF-8 byte order."""
    ranks = np.empty(len(strings), dtype=np.int64)
    ranks[pc.sort_indices(strings).to_numpy()] = np.arange(len(strings))
    return ranks


def content_words(words: Iterable[UserWord]) -> frozenset[str]:
    """Words of a user's dictionary that are nodes in Chinese: of a content tag, or of none."""
    return frozenset(
        normalise(word.word)
        for word in words
        if word.tag is None or word.tag.startswith(word_classes.CHINESE_CONTENT)
    )


def _is_node(block: TokenBlock, user_words: frozenset[str]) -> BoolArray:
    """(num_tokens,) whether each token is a node."""
    is_content: BoolArray = block.flags & word_flags.NODE != 0
    if user_words:
        is_user_word = np.asarray(pc.is_in(block.terms, pa.array(sorted(user_words))), np.bool_)
        is_content |= is_user_word[block.codes] & (block.token_languages == LANGUAGES.index("zh"))
    is_content &= block.kinds == schemas.TERM
    return is_content


def _select_nodes(scores: WordScores, top_k: int) -> BoolArray:
    """(num_nodes,) whether a node is among the best of its document."""
    sizes = np.diff(scores.offsets)
    quota = np.maximum(-(-sizes // 3), top_k)
    single = scores.scores.astype(np.float32)
    chosen = best_places(scores.offsets, single, np.ones(len(single), np.bool_), quota)
    # More than the quota only where scores tie: then the first in term order.
    documents = np.repeat(np.arange(len(sizes)), sizes)[chosen]
    terms = scores.terms.take(pa.array(chosen)).dictionary_encode()
    rank = _term_ranks(terms.dictionary)[np.asarray(terms.indices)]
    order = np.lexsort((rank, -single[chosen], documents))
    offsets = row_offsets(np.bincount(documents, minlength=len(sizes)))
    place = np.arange(len(order)) - offsets[documents[order]]
    selected = np.zeros(len(single), dtype=np.bool_)
    selected[chosen[order[place < quota[documents[order]]]]] = True
    return selected


def _selected_runs(scores: WordScores, selected: BoolArray) -> tuple[Int64Array, Int64Array]:
    """First token and length of every run of selected words; long runs fall into words."""
    is_selected = np.append(selected, False)[scores.token_nodes]
    continues = phrase_strings.follows(scores.block) & is_selected
    continues[1:] &= is_selected[:-1]
    tokens = np.flatnonzero(is_selected).astype(np.int64)
    heads = ~continues[tokens]
    lengths = _run_lengths(heads)
    # Words of a run that is too long stand alone.
    run_lengths = np.repeat(lengths, lengths)
    heads |= run_lengths > MAX_PHRASE_WORDS
    return tokens[heads], _run_lengths(heads)


def _run_lengths(heads: BoolArray) -> Int64Array:
    """Lengths of the runs that begin where `heads` is true, which it is at once."""
    return np.diff(np.append(np.flatnonzero(heads), len(heads))).astype(np.int64)
