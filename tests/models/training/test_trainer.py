"""Training: it learns, goes on exactly, does not depend on how steps are cut, and fails loudly."""

from __future__ import annotations

import errno
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lexbeam.models.config import ConfigError
from lexbeam.models.pretraining.config import PretrainingConfig, with_defaults
from lexbeam.models.pretraining.objective import MaskedLanguageModelling
from lexbeam.models.training import checkpoints as checkpoint_files
from lexbeam.models.training.checkpoints import CheckpointError, Checkpoints
from lexbeam.models.training.config import TrainingConfig, learning_rate
from lexbeam.models.training.trainer import DivergedError, Trainer, make_optimizer
from tests.models.pretraining.helpers import CONFIG, new_trainer, weights


def test_it_learns_what_can_be_learned(tmp_path):
    config = replace(CONFIG, max_steps=300, eval_steps=100, dropout=0.0)
    masks = PretrainingConfig(batch_tokens=256, masking="token")
    trainer, _ = new_trainer(tmp_path, config, num_rows=400, masks=masks)
    state = trainer.train()
    assert state.step == 300
    first, last = state.log[0], state.log[-1]
    assert last["eval_loss"] < first["eval_loss"]
    assert last["eval_accuracy"] > 3 * last["eval_constant_accuracy"]
    assert [record["step"] for record in state.log] == [100, 200, 300]
    assert state.log[0]["tokens"] > 100 * 50


def test_a_training_goes_on_bit_for_bit(tmp_path, monkeypatch):
    whole, model = new_trainer(tmp_path / "whole")
    expected = whole.train()
    cut_off, _ = new_trainer(tmp_path / "cut")
    step = Trainer.step

    def killed(self, number):
        if number == 7:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(Trainer, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        cut_off.train()
    monkeypatch.undo()
    again, resumed = new_trainer(tmp_path / "cut")
    state = again.train()
    assert torch.equal(weights(resumed), weights(model))
    speeds = ("tokens_per_second",)
    for one, other in zip(state.log, expected.log, strict=True):
        assert {k: v for k, v in one.items() if k not in speeds} == {
            k: v for k, v in other.items() if k not in speeds
        }


def test_a_step_is_the_same_however_it_is_cut(tmp_path):
    config = replace(CONFIG, dropout=0.0)
    whole, model = new_trainer(tmp_path / "whole", config)
    whole.train()
    cut, other = new_trainer(tmp_path / "cut", replace(config, max_batch_tokens=20))
    cut.train()
    torch.testing.assert_close(weights(other), weights(model), rtol=1e-4, atol=1e-6)


def test_bfloat16_activations_are_near_and_weights_stay_float32(tmp_path):
    exact, _ = new_trainer(tmp_path / "exact")
    mixed, model = new_trainer(tmp_path / "mixed", dtype=torch.bfloat16)
    wanted, found = (trainer.train().log[-1] for trainer in (exact, mixed))
    assert found["eval_loss"] != wanted["eval_loss"]
    assert found["eval_loss"] == pytest.approx(wanted["eval_loss"], rel=0.02)
    assert {each.dtype for each in model.parameters()} == {torch.float32}


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(step, 10, 1.0, 0.2) for step in range(1, 11)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([1 - k / 9 for k in range(1, 9)])
    assert rates[-1] > 0


def test_the_preset_decides_the_peak_and_the_step_and_a_checkpoint_is_careful():
    tiny, checkpoint = PretrainingConfig(preset="tiny"), PretrainingConfig(model_id="m")
    training, pretraining = with_defaults(TrainingConfig(), tiny)
    assert (training.learning_rate, pretraining.batch_tokens) == (2e-3, 2048)
    assert with_defaults(TrainingConfig(), checkpoint)[0].learning_rate == 5e-5
    given = TrainingConfig(learning_rate=0.3), replace(checkpoint, batch_tokens=600)
    assert with_defaults(*given) == given


@pytest.mark.parametrize(
    ("option", "training", "pretraining"),
    [
        ("batch_tokens", TrainingConfig(), PretrainingConfig(batch_tokens=511)),
        ("max_batch_tokens", TrainingConfig(max_batch_tokens=511), PretrainingConfig()),
    ],
)
def test_a_batch_must_hold_a_sequence(option, training, pretraining):
    with pytest.raises(ConfigError, match=f"--{option} 511: must be at least --max_seq_length 512"):
        with_defaults(training, pretraining)


def test_biases_and_norms_do_not_decay(tmp_path):
    _, model = new_trainer(tmp_path)
    decayed, kept = make_optimizer(model, CONFIG).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.01, 0.0)
    assert {each.dim() for each in decayed["params"]} == {2}
    assert {each.dim() for each in kept["params"]} == {1}


def test_no_number_stops_with_step_and_learning_rate(tmp_path):
    trainer, model = new_trainer(tmp_path)
    hook = model.head.register_forward_hook(
        lambda module, inputs, output: output * (math.nan if module.training else 1.0)
    )
    with pytest.raises(DivergedError, match=r"step 1, learning rate 0\.01: the loss is nan"):
        trainer.train()
    hook.remove()
    assert Checkpoints(tmp_path).steps() == []


def test_it_ends_when_it_gets_no_better_and_gives_the_best(tmp_path, monkeypatch):
    config = replace(CONFIG, max_steps=40, eval_steps=2, patience=3)
    trainer, model = new_trainer(tmp_path, config)
    losses = iter([3.0, 2.0, 2.5, 2.1, 2.2])
    seen = {}

    def score(self):
        loss = next(losses)
        seen[loss] = weights(model)
        return dict(real(self), loss=loss)

    real = MaskedLanguageModelling.evaluate
    monkeypatch.setattr(MaskedLanguageModelling, "evaluate", score)
    state = trainer.train()
    assert (state.step, state.best_step, state.num_worse) == (10, 4, 3)
    assert torch.equal(weights(model), seen[2.0])
    assert Checkpoints(tmp_path).steps() == [4, 10]
    # Begun again it has nothing to do, and gives the same.
    again, resumed = new_trainer(tmp_path, config)
    assert again.train().step == 10
    assert torch.equal(weights(resumed), seen[2.0])


class TestFullDisk:
    def test_the_checkpoint_before_stays_and_the_training_goes_on_from_it(
        self, tmp_path, monkeypatch
    ):
        expected, model = new_trainer(tmp_path / "undisturbed")
        expected.train()
        trainer, _ = new_trainer(tmp_path / "full")
        save = checkpoint_files.save_file

        def full(tensors, path):
            if "step-00000008" in str(path) and Path(path).name.startswith("optimizer"):
                Path(path).write_bytes(b"half")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            save(tensors, path)

        monkeypatch.setattr(checkpoint_files, "save_file", full)
        message = "checkpoint of step 8 .* the disk is full; that of step 4 stays"
        with pytest.raises(CheckpointError, match=message):
            trainer.train()
        assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["step-00000004"]
        monkeypatch.undo()
        again, resumed = new_trainer(tmp_path / "full")
        again.train()
        assert torch.equal(weights(resumed), weights(model))

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
    def test_safetensors_says_so_in_words_of_its_own(self, tmp_path, monkeypatch):
        trainer, _ = new_trainer(tmp_path)
        monkeypatch.setattr(
            checkpoint_files, "save_file",
            lambda tensors, path: checkpoint_files.Path("/dev/full").write_bytes(b"x" * 100_000),
        )  # fmt: skip
        with pytest.raises(CheckpointError, match="the disk is full; there is no earlier one"):
            trainer.train()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (PretrainingConfig, {"masking": "span"}, "--masking 'span'"),
        (PretrainingConfig, {"mask_probability": 0.0}, "--mask_probability 0.0: must be above 0"),
        (PretrainingConfig, {"mask_probability": 1.0}, "--mask_probability 1.0"),
        (PretrainingConfig, {"batch_tokens": 0}, "--batch_tokens 0"),
        (TrainingConfig, {"learning_rate": -1.0}, "--learning_rate -1.0"),
        (TrainingConfig, {"dropout": 1.0}, "--dropout 1.0"),
        (TrainingConfig, {"weight_decay": -0.1}, "--weight_decay -0.1"),
        (TrainingConfig, {"max_steps": 0}, "--max_steps 0"),
        (TrainingConfig, {"dtype": "int8"}, "--dtype 'int8'"),
        (PretrainingConfig, {"eval_fraction": 0.0}, "--eval_fraction 0.0"),
        (PretrainingConfig, {"preset": "huge"}, "--preset 'huge'"),
        (PretrainingConfig, {"vocab_size": 3}, "--vocab_size 3"),
        (PretrainingConfig, {"max_seq_length": 4}, "--max_seq_length 4"),
    ],
)
def test_a_wrong_value_names_option_and_value(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(**options)
