"""Classifiers learn, from a start that is a linear one, however a step is cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from lexbeam.models.classifier import softmax
from lexbeam.models.config import ConfigError
from lexbeam.models.finetuning.classification import LabelledTexts
from lexbeam.models.finetuning.config import FinetuningConfig, with_defaults
from lexbeam.models.finetuning.metrics import classification_scores
from lexbeam.models.training.processes import Processes
from lexbeam.models.training.trainer import Trainer
from tests.models.finetuning.helpers import (
    LABELS,
    TRAINING,
    every_fourth,
    gradients,
    labelled,
    new_classification,
    new_trainer,
)

CONFIG = FinetuningConfig("classify", batch_size=12)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in model.parameters()])


def test_it_learns_what_a_random_model_does_not_know(tmp_path):
    config = replace(CONFIG, train_embeddings=True)
    objective = new_classification(config, table=labelled(240))
    before = objective.evaluate()
    training = replace(TRAINING, num_epochs=20)
    state = new_trainer(objective, tmp_path, training).train()
    assert before["accuracy"] < 0.7
    assert objective.evaluate()["accuracy"] > 0.9
    assert state.log[-1]["eval_loss"] < before["loss"] / 2


def test_the_head_begins_where_logistic_regression_ends():
    objective = new_classification(CONFIG)
    rows = np.flatnonzero(~every_fourth(60))
    first = objective._first_tokens(rows)
    objective.start_head()
    spread = first.std(axis=0)
    features = np.tanh(0.5 * (first - first.mean(axis=0)) / spread)
    fitted = LogisticRegression(C=1.0, max_iter=1000).fit(features, np.arange(60)[rows] % 3)
    expected = fitted.predict_proba(features)
    np.testing.assert_allclose(objective.probabilities(rows), expected, atol=2e-3)


def test_of_two_classes_the_head_has_two_scores():
    table = labelled().filter(np.arange(60) % 3 < 2).combine_chunks()
    objective = new_classification(CONFIG, table=table)
    texts = LabelledTexts.of(table, LABELS[:2], every_fourth(40))
    objective._texts = texts
    objective.model.head.output = torch.nn.Linear(16, 2)
    objective._weights = torch.ones(2)
    objective.start_head()
    rows = np.flatnonzero(~texts.held_out)
    right = objective.probabilities(rows).argmax(axis=1) == texts.classes[rows]
    assert right.mean() > 0.9


def test_gradients_do_not_depend_on_how_a_step_is_cut():
    whole = gradients(new_classification(CONFIG, table=labelled(windows=3)))
    cut = replace(TRAINING, max_batch_tokens=256)
    small = FinetuningConfig("classify", batch_size=12, max_seq_length=16)
    table = labelled(windows=3)
    parts = gradients(new_classification(small, replace(cut, max_batch_tokens=20), table))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_processes_share_a_step():
    small = FinetuningConfig("classify", batch_size=12, max_seq_length=16)
    training = replace(TRAINING, max_batch_tokens=40)
    alone = gradients(new_classification(small, training))
    shares = [
        gradients(new_classification(small, training, processes=Processes(rank, 2)))
        for rank in range(2)
    ]
    torch.testing.assert_close(shares[0] + shares[1], alone, rtol=1e-4, atol=1e-6)


def test_balanced_weights_are_those_of_scikit_learn_and_move_the_loss():
    table = labelled().filter(np.isin(np.arange(60), [0, 3, 6, 9], invert=True)).combine_chunks()
    texts = LabelledTexts.of(table, LABELS, every_fourth(table.num_rows))
    seen = texts.classes[~texts.held_out]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=seen)
    np.testing.assert_allclose(texts.class_weights("balanced"), expected, rtol=1e-6)
    plain = gradients(new_classification(CONFIG, table=table))
    weighted = gradients(new_classification(replace(CONFIG, class_weights="balanced"), table=table))
    assert not torch.allclose(plain, weighted, rtol=1e-3)


def test_what_is_frozen_stays_and_the_rest_changes(tmp_path):
    objective = new_classification(replace(CONFIG, frozen_layers=1))
    encoder = objective.model.encoder
    before = [weights(each).clone() for each in (encoder.embeddings, *encoder.layers)]
    new_trainer(objective, tmp_path).train()
    after = [weights(each) for each in (encoder.embeddings, *encoder.layers)]
    same = [torch.equal(*pair) for pair in zip(before, after, strict=True)]
    assert same == [True, True, False]


def test_there_is_no_dropout_in_what_is_frozen():
    training = replace(TRAINING, dropout=0.5)
    objective = new_classification(replace(CONFIG, frozen_layers=1), training)
    gradients(objective)
    encoder = objective.model.encoder
    assert [each.training for each in (encoder.embeddings, *encoder.layers)] == [False, False, True]


def test_more_frozen_layers_than_there_are_is_an_error():
    with pytest.raises(ConfigError, match="--frozen_layers 3: the model has 2 layers"):
        new_classification(replace(CONFIG, frozen_layers=3))


def test_a_step_draws_one_window_a_document_and_another_later():
    objective = new_classification(CONFIG, table=labelled(windows=5))
    documents = np.arange(10)
    drawn = [objective._drawn(documents, step) for step in (1, 1, 2)]
    assert [len(each) for each in drawn] == [10, 10, 10]
    assert all((a == b).all() for a, b in zip(drawn[0], drawn[1], strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(drawn[0], drawn[2], strict=True))


def test_a_document_is_read_whole_its_windows_weighed_by_their_tokens():
    table = labelled(9, windows=3)
    objective = new_classification(CONFIG, table=table)
    objective.start_head()
    row = np.array([4])
    windows = [objective._texts.windows.window(4, number) for number in range(3)]
    scores = objective._window_scores(windows)
    mean = np.average(scores, axis=0, weights=[len(each) for each in windows])
    np.testing.assert_allclose(objective.probabilities(row), softmax(mean[None]), rtol=1e-5)
    # All windows alike would give something else.
    assert np.abs(softmax(scores.mean(axis=0)) - softmax(mean)).max() > 1e-3


def test_a_training_goes_on_bit_for_bit(tmp_path, monkeypatch):
    training = replace(TRAINING, dropout=0.1)
    whole = new_classification(CONFIG, training)
    whole.start_head()
    expected = new_trainer(whole, tmp_path / "whole", training).train()
    step = Trainer.step

    def killed(self, number):
        if number == 7:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(Trainer, "step", killed)
    cut = new_classification(CONFIG, training)
    cut.start_head()
    with pytest.raises(KeyboardInterrupt):
        new_trainer(cut, tmp_path / "cut", training).train()
    monkeypatch.undo()
    # The head is in the checkpoint: it is not fitted again.
    again = new_classification(CONFIG, training)
    state = new_trainer(again, tmp_path / "cut", training).train()
    assert torch.equal(weights(again.model), weights(whole.model))
    assert [entry["eval_loss"] for entry in state.log] == [e["eval_loss"] for e in expected.log]


def test_scores_are_scikit_learn_s():
    expected = np.array([0, 0, 1, 1, 2])
    probabilities = np.eye(3, dtype=np.float32)[[0, 1, 1, 1, 0]] * 0.8 + 0.2 / 3
    found = classification_scores(expected, probabilities, LABELS)
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["confusion_matrix"] == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert [each["f1"] for each in found["classes"]] == pytest.approx([0.5, 0.8, 0.0])
    assert found["macro_f1"] == pytest.approx(1.3 / 3)
    assert [each["documents"] for each in found["classes"]] == [2, 2, 1]


def test_the_task_decides_the_peak_and_the_step():
    training, finetuning = with_defaults(
        replace(TRAINING, learning_rate=None), FinetuningConfig("embed")
    )
    assert (training.learning_rate, finetuning.batch_size) == (5e-5, 64)
    assert with_defaults(TRAINING, CONFIG) == (TRAINING, CONFIG)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "translate"}, "--task 'translate'"),
        ({"task": "classify", "eval_fraction": 1.0}, "--eval_fraction 1.0"),
        ({"task": "classify", "batch_size": 0}, "--batch_size 0"),
        ({"task": "embed", "batch_size": 1}, "--batch_size 1: must be a whole number >= 2"),
        ({"task": "embed", "temperature": 0.0}, "--temperature 0.0"),
        ({"task": "classify", "class_weights": "some"}, "--class_weights 'some'"),
        ({"task": "classify", "frozen_layers": -1}, "--frozen_layers -1"),
        ({"task": "classify", "max_seq_length": 8}, "--max_seq_length 8"),
        (
            {"task": "classify", "frozen_layers": 1, "train_embeddings": True},
            "--train_embeddings True: would change what the frozen layers get",
        ),
    ],
)
def test_a_wrong_value_names_option_and_value(options, message):
    with pytest.raises(ConfigError, match=message):
        FinetuningConfig(**options)


def test_a_batch_must_hold_a_window():
    with pytest.raises(ConfigError, match="--max_batch_tokens 255: must be at least"):
        with_defaults(replace(TRAINING, max_batch_tokens=255), FinetuningConfig("classify"))
