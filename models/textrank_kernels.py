"""Compiled loops of TextRank: the word graph of a document and its PageRank.

No fast-math: sums run in the order of the text, so that a document gets the same bits in
whatever block and thread.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Graph = tuple[Int64Array, Int32Array, Float64Array]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _pair_offsets(
    nodes: Int32Array, sentences: Int32Array, num_nodes: int, window_size: int
) -> Int64Array:
    """(num_nodes + 1,) where each node's neighbours begin, repeated ones included."""
    offsets = np.zeros(num_nodes + 1, dtype=np.int64)
    for i in range(len(nodes)):
        for j in range(i + 1, min(i + window_size, len(nodes))):
            if sentences[i] != sentences[j]:
                break
            if nodes[i] != nodes[j]:
                offsets[nodes[i] + 1] += 1
                offsets[nodes[j] + 1] += 1
    for node in range(num_nodes):
        offsets[node + 1] += offsets[node]
    return offsets


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def graph_of(nodes: Int32Array, sentences: Int32Array, num_nodes: int, window_size: int) -> Graph:
    """Rows of the symmetric weight matrix: (indptr, neighbours, weights).

    Linear in len(nodes) * window_size: pairs are dealt to the rows, then each row is added up.
    """
    offsets = _pair_offsets(nodes, sentences, num_nodes, window_size)
    pairs = np.empty(offsets[num_nodes], dtype=np.int32)
    fill = offsets[:num_nodes].copy()
    for i in range(len(nodes)):
        for j in range(i + 1, min(i + window_size, len(nodes))):
            if sentences[i] != sentences[j]:
                break
            a, b = nodes[i], nodes[j]
            if a != b:
                pairs[fill[a]] = b
                fill[a] += 1
                pairs[fill[b]] = a
                fill[b] += 1
    indptr = np.zeros(num_nodes + 1, dtype=np.int64)
    weights = np.empty(len(pairs), dtype=np.float64)
    place = np.full(num_nodes, -1, dtype=np.int64)
    end = 0
    for node in range(num_nodes):
        for k in range(offsets[node], offsets[node + 1]):
            other = pairs[k]
            if place[other] < indptr[node]:
                # Rows only shrink, so the sums may take the place of the pairs.
                place[other] = end
                pairs[end] = other
                weights[end] = 0.0
                end += 1
            weights[place[other]] += 1.0
        indptr[node + 1] = end
    return indptr, pairs[:end], weights[:end]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def power_iteration(
    indptr: Int64Array,
    neighbours: Int32Array,
    weights: Float64Array,
    damping: float,
    tolerance: float,
    max_iterations: int,
) -> Float64Array:
    """Stationary distribution of the random surfer; see `textrank.pagerank`."""
    num_nodes = len(indptr) - 1
    if num_nodes == 0:
        return np.zeros(0)
    strength = np.zeros(num_nodes)
    for node in range(num_nodes):
        for k in range(indptr[node], indptr[node + 1]):
            strength[node] += weights[k]
    scores = np.full(num_nodes, 1.0 / num_nodes)
    flow = np.empty(num_nodes)
    for _ in range(max_iterations):
        dangling = 0.0
        for node in range(num_nodes):
            if strength[node] == 0.0:
                dangling += scores[node]
                flow[node] = 0.0
            else:
                flow[node] = scores[node] / strength[node]
        base = (damping * dangling + 1.0 - damping) / num_nodes
        change = 0.0
        for node in range(num_nodes):
            received = 0.0
            for k in range(indptr[node], indptr[node + 1]):
                received += weights[k] * flow[neighbours[k]]
            score = damping * received + base
            change += abs(score - scores[node])
            scores[node] = score
        if change < num_nodes * tolerance:
            break
    return scores


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def score_block(
    offsets: Int64Array,
    codes: Int32Array,
    is_node: BoolArray,
    is_sentence_end: BoolArray,
    num_terms: int,
    window_size: int,
    damping: float,
    tolerance: float,
    max_iterations: int,
) -> tuple[Int64Array, Int32Array, Float64Array, Int64Array]:
    """PageRank of every document of a block.

    Returns:
        node_offsets (num_documents + 1,), the term code and the score of each node, in order of
        first appearance, and for each token its node in the block or -1.
    """
    num_documents = len(offsets) - 1
    node_offsets = np.zeros(num_documents + 1, dtype=np.int64)
    capacity = 0
    for i in range(len(codes)):
        capacity += is_node[i]
    node_codes = np.empty(capacity, dtype=np.int32)
    scores = np.empty(capacity, dtype=np.float64)
    token_nodes = np.full(len(codes), -1, dtype=np.int64)
    node_of_code = np.full(num_terms, -1, dtype=np.int64)
    num_nodes = 0
    for document in range(num_documents):
        first = num_nodes
        begin, end = offsets[document], offsets[document + 1]
        nodes = np.empty(end - begin, dtype=np.int32)
        sentences = np.empty(end - begin, dtype=np.int32)
        length = sentence = 0
        for i in range(begin, end):
            if is_sentence_end[i]:
                sentence += 1
            if not is_node[i]:
                continue
            if node_of_code[codes[i]] < first:
                node_of_code[codes[i]] = num_nodes
                node_codes[num_nodes] = codes[i]
                num_nodes += 1
            token_nodes[i] = node_of_code[codes[i]]
            nodes[length] = token_nodes[i] - first
            sentences[length] = sentence
            length += 1
        indptr, neighbours, weights = graph_of(
            nodes[:length], sentences[:length], num_nodes - first, window_size
        )
        scores[first:num_nodes] = power_iteration(
            indptr, neighbours, weights, damping, tolerance, max_iterations
        )
        node_offsets[document + 1] = num_nodes
    return node_offsets, node_codes[:num_nodes], scores[:num_nodes], token_nodes
