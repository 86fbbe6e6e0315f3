"""Pairs: what is cut to fit the memory is the whole step; equal texts are no wrong answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from lexbeam.models.finetuning import contrastive
from lexbeam.models.finetuning.config import FinetuningConfig
from lexbeam.models.finetuning.examples import SCHEMA
from lexbeam.models.finetuning.forward import batches_of
from lexbeam.models.training.processes import Processes
from tests.models.finetuning.helpers import (
    TRAINING,
    every_fourth,
    gradients,
    new_contrastive,
    new_trainer,
    paired,
)

CONFIG = FinetuningConfig("embed", batch_size=15, max_seq_length=16)


def test_pairs_find_each_other_after_training(tmp_path):
    table = paired(240)
    objective = new_contrastive(replace(CONFIG, train_embeddings=True), table=table)
    before = objective.held_out()
    state = new_trainer(objective, tmp_path, replace(TRAINING, num_epochs=10)).train()
    after = objective.held_out()
    assert after["accuracy"] > before["accuracy"] + 0.2
    assert after["mrr"] > before["mrr"]
    assert after["num_pairs"] == 60
    assert state.log[-1]["eval_loss"] == pytest.approx(after["loss"])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_step_that_is_cut_has_the_gradient_of_the_whole_step(pooling, dropout):
    training = replace(TRAINING, dropout=dropout)
    cut = new_contrastive(CONFIG, replace(training, max_batch_tokens=30), pooling=pooling)
    found = gradients(cut)
    # Autograd through all batches at once, with the same dropout.
    cut.model.zero_grad(set_to_none=True)
    rows = cut._sides.step(1)
    batches = batches_of(cut._pairs.texts(rows), cut._hardware)
    assert len(batches) > 5
    vectors = torch.cat([cut._vectors(each, 1, index) for index, each in enumerate(batches)])
    cut._loss(vectors, rows).backward()
    expected = torch.cat(
        [each.grad.flatten() for each in cut.model.parameters() if each.grad is not None]
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    if not dropout:
        whole = gradients(new_contrastive(CONFIG, training, pooling=pooling))
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-6)


def test_processes_share_a_step(monkeypatch):
    training = replace(TRAINING, max_batch_tokens=30)
    alone = new_contrastive(CONFIG, training)
    expected = gradients(alone)
    rows = alone._sides.step(1)
    with torch.no_grad():
        batches = batches_of(alone._pairs.texts(rows), alone._hardware)
        whole = torch.cat([alone._vectors(each, 1, index) for index, each in enumerate(batches)])
    # What the exchange would give each of them.
    monkeypatch.setattr(
        Processes, "add_up", lambda self, tensors: [each.copy_(whole) for each in tensors]
    )
    shares = [gradients(new_contrastive(CONFIG, training, None, Processes(r, 2))) for r in (0, 1)]
    torch.testing.assert_close(shares[0] + shares[1], expected, rtol=1e-4, atol=1e-6)


def test_equal_second_texts_are_no_wrong_answers():
    table = paired(8)
    seconds = table["second_ids"].to_pylist()
    doubled = table.set_column(
        table.schema.get_field_index("second_ids"), table.schema.field("second_ids"),
        pa.chunked_array(
            [[seconds[number // 2] for number in range(8)]], SCHEMA.field("second_ids").type
        ),
    ).combine_chunks()  # fmt: skip
    objective = new_contrastive(CONFIG, table=doubled)
    rows = np.arange(8)
    vectors = torch.eye(16)[:8].repeat(2, 1)
    vectors[8:] = torch.eye(16)[torch.arange(8) // 2 * 2]
    # Pairs 2k and 2k + 1 have the same second text: only other pairs count against it.
    loss = float(objective._loss(vectors[:, :16], rows))
    scores = (vectors[:8] @ vectors[8:].T / CONFIG.temperature).numpy()
    for row in range(8):
        scores[row, row ^ 1] = -np.inf
    own = np.arange(8)

    def entropy(values):
        return float(np.mean(np.logaddexp.reduce(values, axis=1) - values[own, own]))

    assert loss == pytest.approx((entropy(scores) + entropy(scores.T)) / 2, rel=1e-5)


def test_scores_are_those_of_a_whole_matrix(monkeypatch):
    objective = new_contrastive(CONFIG)
    rows = np.flatnonzero(every_fourth(60))
    expected = objective.score(rows)
    vectors = objective._all_vectors(objective._pairs.texts(rows))
    cosines = vectors[: len(rows)] @ vectors[len(rows) :].T
    ranks = 1 + (cosines > np.diag(cosines)[:, None]).sum(axis=1)
    assert expected["accuracy"] == pytest.approx((ranks == 1).mean())
    assert expected["mrr"] == pytest.approx((1 / ranks).mean())
    shares = cosines.astype(np.float64) / CONFIG.temperature
    loss = np.mean(np.log(np.exp(shares).sum(axis=1)) - np.diag(shares))
    assert expected["loss"] == pytest.approx(loss, rel=1e-4)
    monkeypatch.setattr(contrastive, "_RANKED_AT_A_TIME", 4)
    again = objective.score(rows)
    assert again == pytest.approx(expected)
