"""LDA: files, fold-in, published columns and exports."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.models import lda, schemas
from lexbeam.models.config import LdaConfig

ROWS = [
    [[0, 1, 2, 3], [3, 2, 2, 1]],
    [[0, 1, 2], [1, 4, 2]],
    [[4, 5, 6], [2, 2, 2]],
    [[4, 5, 6, 7], [1, 1, 3, 2]],
    None,
    [[], []],
    [[3, 6], [1, 1]],
]
TERMS = pa.array(["ant", "bee", "cat", "dog", "é", "字", "學", "龍"])


def bow_batch(rows: list[list[list[int]] | None]) -> pa.RecordBatch:
    columns = [[None if row is None else row[i] for row in rows] for i in (0, 1)]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schemas.BOW, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schemas.BOW)


@pytest.fixture(scope="module")
def model() -> lda.LdaModel:
    config = LdaConfig(num_topics=3, passes=12, seed=2)
    fitted = lda.fit(lambda: [bow_batch(ROWS)], len(TERMS), config)
    assert fitted is not None
    return fitted


@pytest.fixture(scope="module")
def model_dir(model: lda.LdaModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model.save(folder / "lda")
    pq.write_table(pa.table({"term": TERMS}), folder / "vocabulary.parquet")
    return folder


def test_save_and_load(model: lda.LdaModel, model_dir: Path, tmp_path: Path) -> None:
    loaded = lda.LdaModel.load(model_dir / "lda")
    assert loaded.config == model.config
    assert (loaded.config.fraction_bits, loaded.passes) == (30, 12)
    assert np.array_equal(loaded.topic_term_counts, model.topic_term_counts)
    assert np.array_equal(loaded.topic_term, model.topic_term)
    loaded.save(tmp_path)
    for name in ("config.json", "topic_term_counts.npy"):
        assert (tmp_path / name).read_bytes() == (model_dir / "lda" / name).read_bytes()
    assert lda.cached_model(str(tmp_path)) is lda.cached_model(str(tmp_path))


def damage_config(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("damage", ["missing", "cut", "object", "shape", "version", "json", "key"])
def test_damaged_files_are_named(model_dir: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "lda"
    shutil.copytree(model_dir / "lda", folder)
    counts = folder / "topic_term_counts.npy"
    if damage == "missing":
        counts.unlink()
    elif damage == "cut":
        counts.write_bytes(counts.read_bytes()[:150])
    elif damage == "object":
        np.save(counts, np.array([[{}]], dtype=object), allow_pickle=True)
    elif damage == "shape":
        np.save(counts, np.zeros((3, 8), np.int64))
    elif damage == "version":
        damage_config(folder, format_version=99)
    elif damage == "json":
        (folder / "config.json").write_text("{")
    elif damage == "key":
        values = json.loads((folder / "config.json").read_text())
        del values["seed"]
        (folder / "config.json").write_text(json.dumps(values))
    in_config = damage in ("version", "json", "key")
    with pytest.raises(ValueError, match=r"config\.json" if in_config else r"counts\.npy"):
        lda.LdaModel.load(folder)


def test_marginals(model: lda.LdaModel) -> None:
    shares = model.topic_term_counts.sum(axis=0) / model.topic_term_counts.sum()
    np.testing.assert_allclose(model.topic_marginals, shares, rtol=1e-12)
    np.testing.assert_allclose(model.term_marginals, model.topic_term @ shares, rtol=1e-12)
    assert model.term_marginals.sum() == pytest.approx(1.0)


def test_fold_in_is_a_fixed_point(model: lda.LdaModel) -> None:
    theta = lda.fold_in(bow_batch(ROWS), model)
    assert theta.shape == (7, 3)
    np.testing.assert_allclose(theta.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(theta[4:6], np.full((2, 3), 1 / 3))
    for row, weights in zip(ROWS, theta, strict=True):
        if row and row[0]:
            phi, counts = model.topic_term[row[0]], np.array(row[1])
            responsibilities = phi * weights / (phi @ weights)[:, None]
            updated = (0.1 + counts @ responsibilities) / (0.3 + counts.sum())
            np.testing.assert_allclose(updated, weights, atol=1e-3)
    assert theta[0].argmax() == theta[1].argmax()
    assert theta[0].argmax() not in (theta[2].argmax(), theta[3].argmax())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_fold_in_of_a_document_does_not_depend_on_others(
    model: lda.LdaModel, chosen: list[int]
) -> None:
    whole = lda.fold_in(bow_batch(ROWS), model)
    block = lda.fold_in(bow_batch([ROWS[i] for i in chosen]), model)
    assert np.array_equal(block, whole[chosen])


def test_unknown_terms_are_refused(model: lda.LdaModel) -> None:
    batch = bow_batch([[[8], [1]]])
    with pytest.raises(ValueError, match="outside"):
        lda.fold_in(batch, model)
    with pytest.raises(ValueError, match="outside"):
        lda.keywords_lda(batch, np.full((1, 3), 1 / 3), model, TERMS, 5)


def test_document_topics_by_hand() -> None:
    rows: list[list[list[int]] | None] = [[[0], [1]], None, [[], []], [[1], [1]]]
    theta = np.full((4, 12), 0.0)
    theta[0, [3, 5, 7, 9]] = [0.2, 0.5, 0.2, 0.1]
    theta[1:3] = 1 / 12
    theta[3] = 1 / 12
    theta[3, 11] += 0.005
    theta[0, 0] = 0.0099
    topics = lda.document_topics(bow_batch(rows), theta)
    assert topics.type == schemas.TOPIC_WEIGHTS
    found = topics.to_pylist()
    assert [item["topic"] for item in found[0]] == [5, 3, 7, 9]
    assert [item["weight"] for item in found[0]] == pytest.approx([0.5, 0.2, 0.2, 0.1])
    assert found[1] is None
    assert found[2] == []
    assert [item["topic"] for item in found[3]] == [11, *range(9)]


def test_keywords_follow_the_formula(model: lda.LdaModel) -> None:
    batch = bow_batch(ROWS)
    theta = lda.fold_in(batch, model)
    keywords = lda.keywords_lda(batch, theta, model, TERMS, 3)
    assert keywords.type == schemas.KEYWORDS
    found = keywords.to_pylist()
    assert found[4] is None
    assert found[5] == []
    for row, weights, items in zip(ROWS, theta, found, strict=True):
        if not row or not row[0]:
            continue
        scores = (model.topic_term @ weights)[row[0]] / model.term_marginals[row[0]] ** 0.75
        best = np.argsort(-scores, kind="stable")[:3]
        assert [item["term"] for item in items] == [TERMS[row[0][i]].as_py() for i in best]
        np.testing.assert_allclose([item["score"] for item in items], scores[best], rtol=1e-6)
    with pytest.raises(ValueError, match="top_k"):
        lda.keywords_lda(batch, theta, model, TERMS, 0)


def test_ties_stand_in_term_order() -> None:
    counts = np.array([[5, 1], [5, 7], [9, 1], [5, 1]], np.int64) << 30
    tied = lda.LdaModel(LdaConfig(num_topics=2), counts)
    assert lda.top_term_ids(tied, 3).tolist() == [[2, 0, 1], [1, 0, 2]]
    batch = bow_batch([[[0, 3], [1, 9]]])
    keywords = lda.keywords_lda(batch, np.array([[0.5, 0.5]]), tied, TERMS, 2).to_pylist()
    assert [item["term"] for item in keywords[0]] == ["ant", "dog"]
    assert keywords[0][0]["score"] == keywords[0][1]["score"]


def test_top_terms(model: lda.LdaModel) -> None:
    table = lda.top_terms(model, TERMS, 5)
    assert table.schema == schemas.TOPICS
    assert table["topic"].to_pylist() == [k for k in range(3) for _ in range(5)]
    assert table["rank"].to_pylist() == [1, 2, 3, 4, 5] * 3
    for topic in range(3):
        order = np.argsort(-model.topic_term[:, topic], kind="stable")[:5]
        rows = table.slice(topic * 5, 5)
        assert rows["term"].to_pylist() == TERMS.take(pa.array(order)).to_pylist()
        assert rows["weight"].to_pylist() == model.topic_term[order, topic].tolist()
    assert lda.top_terms(model, TERMS).num_rows == 3 * len(TERMS)


def test_to_gensim(model: lda.LdaModel, model_dir: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from gensim.models import CoherenceModel

        exported = lda.to_gensim(model_dir)
        corpus = [list(zip(*row, strict=True)) for row in ROWS if row and row[0]]
        coherence = CoherenceModel(
            model=exported, corpus=corpus, dictionary=exported.id2word, coherence="u_mass", topn=3
        )
        assert np.isfinite(coherence.get_coherence())
        gamma, _ = exported.inference(corpus)
    np.testing.assert_allclose(exported.get_topics(), model.topic_term.T, rtol=1e-12)
    assert exported.alpha == pytest.approx([0.1] * 3)
    best = [term for term, _ in exported.show_topic(0, 2)]
    assert best == lda.top_terms(model, TERMS, 2)["term"].to_pylist()[:2]
    theta = lda.fold_in(bow_batch(ROWS), model)
    assert gamma[0].argmax() == theta[0].argmax()


def test_to_sklearn(model: lda.LdaModel, model_dir: Path) -> None:
    exported = lda.to_sklearn(model_dir)
    components = exported.components_
    phi = components / components.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(phi, model.topic_term.T, rtol=1e-12)
    dense = np.zeros((2, len(TERMS)))
    for document, row in zip(dense, (ROWS[0], ROWS[2]), strict=True):
        assert row is not None
        document[row[0]] = row[1]
    theta = lda.fold_in(bow_batch([ROWS[0], ROWS[2]]), model)
    assert np.array_equal(exported.transform(dense).argmax(axis=1), theta.argmax(axis=1))
    assert np.isfinite(exported.perplexity(dense))


def test_exports_refuse_another_vocabulary(model: lda.LdaModel, tmp_path: Path) -> None:
    model.save(tmp_path / "lda")
    pq.write_table(pa.table({"term": TERMS[:5]}), tmp_path / "vocabulary.parquet")
    with pytest.raises(ValueError, match="5 terms"):
        lda.to_sklearn(tmp_path)
