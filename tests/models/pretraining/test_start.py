"""What a training begins with, and how a model is scored."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lexbeam.models.config import ConfigError
from lexbeam.models.pretraining.config import PRESETS, PretrainingConfig
from lexbeam.models.pretraining.evaluation import evaluate, held_out_batches
from lexbeam.models.pretraining.start import (
    checkpoint_model,
    new_model,
    start_from_frequencies,
)
from lexbeam.models.pretraining.store import SequenceStore
from lexbeam.models.training.dropout import set_dropout
from lexbeam.models.training.hardware import Hardware
from lexbeam.models.transformer.layers import MultiHeadAttention
from tests.models.pretraining.helpers import SPECIAL, VOCAB_SIZE, counting, table, weights
from tests.models.tiny_models import write_tiny_model

TINY = PretrainingConfig(preset="tiny", max_seq_length=16)
CPU = Hardware(torch.device("cpu"), torch.float32, 10_000)


def test_a_new_model_has_the_preset_s_sizes_and_follows_from_the_seed():
    model = new_model(TINY, VOCAB_SIZE, 7)
    config, size = model.encoder.config, PRESETS["tiny"]
    for name in ("num_layers", "hidden_size", "num_heads", "intermediate_size"):
        assert getattr(config, name) == getattr(size, name)
    assert (config.max_positions, config.pad_token_id) == (16, 7)
    assert torch.equal(weights(model), weights(new_model(TINY, VOCAB_SIZE, 7)))
    other = new_model(replace(TINY, seed=1), VOCAB_SIZE, 7)
    assert not torch.equal(weights(model), weights(other))


def test_a_new_head_foretells_each_token_as_often_as_it_is():
    model = new_model(TINY, VOCAB_SIZE, 0)
    store = SequenceStore([table([[2, 10, 10, 10, 11, 3]] * 50)])
    start_from_frequencies(model, store, SPECIAL)
    shares = model.head.bias.exp()
    assert shares.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert (shares[10] / shares[11]).item() == pytest.approx(151 / 51, rel=1e-4)
    # What is never foretold, and what was never seen.
    assert shares[[2, 3, 4, 20]].tolist() == pytest.approx([1 / 230] * 4, rel=1e-4)


def test_dropout_is_set_everywhere_and_attention_has_none():
    model = new_model(TINY, VOCAB_SIZE, 0)
    set_dropout(model, 0.3)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}
    assert {m.dropout for m in model.modules() if isinstance(m, MultiHeadAttention)} == {0.0}
    # config.json still says what is usual, for who fine-tunes it.
    assert model.encoder.config.dropout == 0.1


def test_a_checkpoint_with_too_few_rows_is_an_error(tmp_path):
    folder = write_tiny_model(tmp_path, "bert")
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = PretrainingConfig(model_id="mine")
    checkpoint_model(folder, config, SPECIAL)
    with pytest.raises(ConfigError, match=f"--model_id 'mine': .* {rows} rows"):
        checkpoint_model(folder, config, replace(SPECIAL, vocab_size=rows + 1))


@pytest.mark.parametrize("whole_words", [False, True])
def test_scores_do_not_depend_on_how_the_held_out_texts_are_cut(whole_words):
    model = new_model(TINY, VOCAB_SIZE, 0)
    store = SequenceStore([counting(30, 5)])
    one, other = (
        evaluate(
            model,
            held_out_batches(store, SPECIAL, 0.15, 0, most, whole_words=whole_words),
            CPU,
        )
        for most in (16, 10_000)
    )
    assert one.num_masked == other.num_masked
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert one.accuracy == other.accuracy
    # A new model knows nothing: its loss is near ln V.
    assert one.loss == pytest.approx(np.log(VOCAB_SIZE), rel=0.1)


def test_the_best_constant_guess_is_the_commonest_masked_token():
    model = new_model(TINY, VOCAB_SIZE, 0)
    store = SequenceStore([table([[2, 10, 10, 10, 11, 3]] * 40)])
    batches = held_out_batches(store, SPECIAL, 0.3, 0, 64, whole_words=False)
    labels = np.concatenate([batch.tokens.labels for batch in batches])
    with torch.no_grad():
        model.head.bias[10] = 100.0
    score = evaluate(model, batches, CPU)
    assert score.accuracy == score.constant_accuracy == pytest.approx((labels == 10).mean())
    few = held_out_batches(store, SPECIAL, 0.3, 0, 64, whole_words=False, most_tokens=30)
    assert sum(sum(batch.lengths) for batch in few) == 30
