"""`lexbeam pretrain`: from a corpus to a model that lexbeam encodes with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from lexbeam.models.catalogue import cache_dir
from lexbeam.models.encoder_spec import read_spec
from lexbeam.models.pretraining.sequences import SequenceMaker
from lexbeam.models.training.trainer import Trainer
from lexbeam.transforms.part_files import read_arrow
from tests.conftest import ROOT
from tests.helpers import wait_until
from tests.models.tiny_models import write_tiny_model
from tests.pipeline.conftest import only_run, read_dataset, write_jsonl

SAMPLE = ROOT / "examples" / "corpus"
SMALL = (
    "--preset", "tiny", "--vocab_size", "1500", "--max_seq_length", "64", "--batch_tokens", "512",
    "--eval_fraction", "0.1", "--max_steps", "6", "--eval_steps", "3", "--dtype", "float32",
    "--dropout", "0",
)  # fmt: skip


def record_of(model: Path) -> dict:
    return json.loads((model / "training.json").read_text(encoding="utf-8"))


def log_of(model: Path) -> list[dict]:
    """What was measured, speeds left out."""
    log = record_of(model)["log"]
    return [{k: v for k, v in entry.items() if k != "tokens_per_second"} for entry in log]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A model of the sample corpus, with what it was made of."""
    output = tmp_path_factory.mktemp("pretrained") / "model"
    command = [sys.executable, "-m", "lexbeam.pipeline.cli", "pretrain", "--input", str(SAMPLE)]
    command += ["--output", str(output), "--keep_intermediate", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert f"model: {output}" in done.stderr
    assert "train " in done.stderr
    return output


def shards(model: Path, name: str) -> pa.Table:
    paths = sorted((model / "training" / "intermediate" / name).glob("*.arrow"))
    return pa.concat_tables([read_arrow(str(path)) for path in paths])


class TestFromScratch:
    def test_the_output_is_a_checkpoint_with_its_record_and_curves(self, pretrained):
        names = {path.name for path in pretrained.iterdir() if path.is_file()}
        assert names == {
            "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
            "training.json", "curves.png",
        }  # fmt: skip
        assert (pretrained / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        record = record_of(pretrained)
        assert (record["documents"], record["rejected"]) == (48, {})
        assert [entry["step"] for entry in record["log"]] == [3, 6]
        assert set(record["held_out"]) == {"word", "token"}
        config = json.loads((pretrained / "config.json").read_text())
        assert (config["model_type"], config["max_position_embeddings"]) == ("bert", 64)

    def test_transformers_loads_it_and_fills_masks(self, pretrained):
        import transformers

        from lexbeam.models.encoder_torch import quiet_transformers

        with quiet_transformers():
            tokenizer = transformers.AutoTokenizer.from_pretrained(pretrained)
            model, report = transformers.AutoModelForMaskedLM.from_pretrained(
                pretrained, output_loading_info=True
            )
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        inputs = tokenizer("the [MASK] of tea", return_tensors="pt")
        assert model(**inputs).logits.shape[-1] == len(tokenizer)

    def test_lexbeam_encodes_with_it(self, pretrained, lexbeam, tmp_path):
        assert read_spec("own", pretrained, cache_dir()).max_positions == 64
        result = lexbeam(
            "run", "--input", SAMPLE, "--output", tmp_path, "--features", "bert",
            "--model_id", pretrained, "--max_seq_length", "64", "--backend", "torch",
        )  # fmt: skip
        assert result.code == 0, result.err
        embeddings = read_dataset(only_run(tmp_path), "documents")["embedding"]
        assert embeddings.null_count == 0
        assert embeddings.type.list_size == 128

    def test_every_token_is_in_one_shard_or_held_out(self, pretrained):
        parts = (pretrained / "training" / "intermediate" / "sequences").glob("*.parquet")
        made = pa.concat_tables([pa.parquet.read_table(path) for path in parts])
        train, held_out = shards(pretrained, "shards"), shards(pretrained, "held_out")
        assert train.num_rows + held_out.num_rows == made.num_rows
        assert held_out.num_rows > 0

        def rows(table: pa.Table) -> list[tuple[int, ...]]:
            return sorted(map(tuple, table["input_ids"].to_pylist()))

        assert rows(pa.concat_tables([train, held_out])) == rows(made.select(train.column_names))
        record = record_of(pretrained)
        assert record["train_tokens"] == len(train["input_ids"].combine_chunks().values)

    def test_sequences_stand_in_the_order_of_their_keys(self, pretrained):
        parts = (pretrained / "training" / "intermediate" / "sequences").glob("*.parquet")
        made = pa.concat_tables([pa.parquet.read_table(path) for path in parts])
        learned = made.filter(pa.compute.equal(made["shard"], 0)).sort_by("key")
        train = shards(pretrained, "shards")
        assert train.num_rows > 50
        assert learned["input_ids"].to_pylist() == train["input_ids"].to_pylist()

    def test_the_same_command_again_does_nothing(self, pretrained, lexbeam):
        before = (pretrained / "model.safetensors").stat().st_mtime_ns
        result = lexbeam("pretrain", "--input", SAMPLE, "--output", pretrained, *SMALL)
        assert result.code == 0
        assert "complete already" in result.err
        assert (pretrained / "model.safetensors").stat().st_mtime_ns == before

    def test_other_options_for_the_same_output_are_an_error(self, pretrained, lexbeam):
        result = lexbeam(
            "pretrain", "--input", SAMPLE, "--output", pretrained, *SMALL, "--masking", "token"
        )
        assert result.code == 2
        assert "--masking 'token' ('word' there)" in result.err
        assert "Choose another --output." in result.err

    def test_cut_differently_it_is_the_same_model(self, pretrained, lexbeam, tmp_path):
        result = lexbeam(
            "pretrain", "--input", SAMPLE, "--output", tmp_path / "m", *SMALL,
            "--split_size", "5K", "--keep_intermediate",
        )  # fmt: skip
        assert result.code == 0, result.err
        for name in ("shards", "held_out"):
            assert shards(tmp_path / "m", name).equals(shards(pretrained, name))
        ours, theirs = (load_file(m / "model.safetensors") for m in (tmp_path / "m", pretrained))
        assert all((ours[name] == theirs[name]).all() for name in theirs)


class TestFromACheckpoint:
    @pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
    def test_it_goes_on_in_the_checkpoint_s_family(self, family, lexbeam, tmp_path):
        checkpoint = write_tiny_model(tmp_path / "checkpoint", family)
        result = lexbeam(
            "pretrain", "--input", SAMPLE, "--output", tmp_path / "m", "--model_id", checkpoint,
            "--max_seq_length", "64", "--batch_tokens", "512", "--max_steps", "2",
            "--eval_fraction", "0.1",
        )  # fmt: skip
        assert result.code == 0, result.err
        assert "has no head for masked tokens: a new one is tied to it" in result.err
        before, after = (
            json.loads((folder / "config.json").read_text())
            for folder in (checkpoint, tmp_path / "m")
        )
        assert after["model_type"] == family
        assert after["initializer_range"] == before["initializer_range"]
        theirs = load_file(checkpoint / "model.safetensors")
        ours = load_file(tmp_path / "m" / "model.safetensors")
        base = "roberta" if family == "xlm-roberta" else "bert"
        moved = {
            name: np.abs(ours[f"{base}.{name}"] - values).max()
            for name, values in theirs.items()
            if f"{base}.{name}" in ours
        }
        assert len(moved) > 30
        # A few careful steps: near where it began, and not there.
        assert 0 < moved["encoder.layer.0.output.dense.weight"] < 0.01

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--preset", "tiny"), "--preset 'tiny': is for a model from scratch"),
            (("--vocab_size", "500"), "--vocab_size 500: is for a model from scratch"),
            (("--max_seq_length", "65"), "--max_seq_length 65: .* was made for 64 tokens"),
        ],
    )
    def test_what_does_not_go_with_it_is_an_error(self, options, message, lexbeam, tmp_path):
        checkpoint = write_tiny_model(tmp_path / "checkpoint", "bert")
        result = lexbeam(
            "pretrain", "--input", SAMPLE, "--output", tmp_path / "m", "--model_id", checkpoint,
            "--max_seq_length", "64", *options,
        )  # fmt: skip
        assert result.code == 2
        assert re.search(message, result.err), result.err
        assert not (tmp_path / "m").exists()

    def test_a_vocabulary_that_does_not_fit_is_an_error(self, lexbeam, tmp_path):
        checkpoint = write_tiny_model(tmp_path / "checkpoint", "bert")
        config = json.loads((checkpoint / "config.json").read_text())
        (checkpoint / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
        result = lexbeam(
            "pretrain", "--input", SAMPLE, "--output", tmp_path / "m", "--model_id", checkpoint,
            "--max_seq_length", "64",
        )  # fmt: skip
        assert result.code == 2
        assert "its tokenizer has ids up to" in result.err
        assert "its embeddings have 100 rows" in result.err


class TestBadInput:
    def test_a_corpus_smaller_than_a_batch(self, lexbeam, tmp_path):
        documents = [{"id": str(i), "text": f"one short text, number {i}"} for i in range(30)]
        path = write_jsonl(tmp_path / "in.jsonl", documents)
        result = lexbeam(
            "pretrain", "--input", path, "--output", tmp_path / "m", "--vocab_size", "200",
            "--eval_fraction", "0.2",
        )  # fmt: skip
        assert result.code == 1
        assert "the corpus is smaller than a batch" in result.err
        assert "--batch_tokens 2,048" in result.err
        assert not (tmp_path / "m" / "model.safetensors").exists()

    def test_nothing_held_out(self, lexbeam, tmp_path):
        documents = [{"id": str(i), "text": f"one short text, number {i}. " * 9} for i in range(3)]
        path = write_jsonl(tmp_path / "in.jsonl", documents)
        result = lexbeam(
            "pretrain", "--input", path, "--output", tmp_path / "m", "--vocab_size", "200",
            "--max_seq_length", "16", "--batch_tokens", "16", "--eval_fraction", "1e-9",
        )  # fmt: skip
        assert result.code == 1
        assert "no document was held out by --eval_fraction 1e-09" in result.err

    def test_rejected_documents_are_rows_of_errors(self, lexbeam, tmp_path):
        documents = [{"id": str(i), "text": f"a text about tea, number {i}"} for i in range(90)]
        # The tokenizer drops the one character of the last.
        more = [{"id": "empty", "text": ""}, {"id": "nothing", "text": "\ufffd"}]
        path = write_jsonl(tmp_path / "in.jsonl", [*documents, *more])
        with path.open("a", encoding="utf-8") as file:
            file.write("{ no JSON\n")
        result = lexbeam(
            "pretrain", "--input", path, "--output", tmp_path / "m", "--vocab_size", "200",
            "--max_seq_length", "16", "--batch_tokens", "128", "--eval_fraction", "0.1",
            "--max_steps", "1", "--preset", "tiny",
        )  # fmt: skip
        assert result.code == 0, result.err
        assert read_dataset(tmp_path / "m" / "training", "errors").num_rows == 2
        record = record_of(tmp_path / "m")
        assert record["documents"] == 93
        assert sum(record["rejected"].values()) == 2
        assert record["documents_without_tokens"] == 1
        assert record["documents_learned"] + record["documents_held_out"] == 90
        assert record["documents_held_out"] > 0
        assert "93, 2 rejected" in result.err
        assert "1 without tokens" in result.err

    def test_a_document_that_is_lost_stops_the_job(self, lexbeam, tmp_path, monkeypatch):
        lose = SequenceMaker.sequences
        monkeypatch.setattr(
            SequenceMaker, "sequences", lambda self, documents: lose(self, documents[1:])
        )
        result = lexbeam("pretrain", "--input", SAMPLE, "--output", tmp_path / "m", *SMALL)
        assert result.code == 1
        assert "48 documents were read, but 47 kept and 0 rejected" in result.err

    def test_a_file_of_rejected_documents_alone_costs_only_itself(self, lexbeam, tmp_path):
        bad = tmp_path / "bad.jsonl"
        bad.write_text("{ no JSON\n" * 3, encoding="utf-8")
        result = lexbeam(
            "pretrain", "--input", SAMPLE, bad, "--output", tmp_path / "m", *SMALL,
            "--split_size", "1K",
        )  # fmt: skip
        assert result.code == 0, result.err
        record = record_of(tmp_path / "m")
        assert sum(record["rejected"].values()) == 3
        assert record["documents_learned"] + record["documents_held_out"] == 48

    def test_a_folder_with_another_model_is_left_alone(self, lexbeam, tmp_path):
        write_tiny_model(tmp_path / "m", "bert")
        before = (tmp_path / "m" / "model.safetensors").read_bytes()
        result = lexbeam("pretrain", "--input", SAMPLE, "--output", tmp_path / "m", *SMALL)
        assert result.code == 2
        assert "holds a model already" in result.err
        assert (tmp_path / "m" / "model.safetensors").read_bytes() == before

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--output", "m"), "--input is required"),
            (("--input", SAMPLE), "--output is required"),
            (
                ("--input", SAMPLE, "--output", "s3://bucket/m"),
                "--output 's3://bucket/m': the trainer writes to a local folder",
            ),
            (
                ("--input", SAMPLE, "--output", "m", "--batch_tokens", "100"),
                "--batch_tokens 100: must be at least --max_seq_length 512",
            ),
            (("--input", SAMPLE, "--output", "m", "--run_id", "x"), "unknown option --run_id"),
            (
                ("--input", SAMPLE, "--output", "m", "--runner", "DataflowRunner"),
                "--runner 'DataflowRunner': its workers do not see the local folder",
            ),
        ],
    )
    def test_wrong_usage_is_found_before_anything_is_read(
        self, options, message, lexbeam, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        result = lexbeam("pretrain", *options)
        assert result.code == 2
        assert message in result.err
        assert list(tmp_path.iterdir()) == []

    def test_a_loss_that_is_no_number_stops_with_step_and_rate(
        self, lexbeam, tmp_path, monkeypatch
    ):
        step = Trainer.step

        def diverging(self, number):
            if number == 5:
                for parameter in self._model.parameters():
                    parameter.data.fill_(float("nan"))
            return step(self, number)

        monkeypatch.setattr(Trainer, "step", diverging)
        command = ("pretrain", "--input", SAMPLE, "--output", tmp_path / "m", *SMALL)
        result = lexbeam(*command)
        assert result.code == 1
        assert "step 5, learning rate 0.0006" in result.err
        assert "the checkpoint of step 3 stays" in result.err
        monkeypatch.undo()
        # Less at a time is no other training.
        again = lexbeam(*command, "--max_batch_tokens", "128")
        assert again.code == 0, again.err
        assert "the training goes on from step 3 of 6" in again.err


@pytest.mark.kills
def test_a_training_that_is_killed_goes_on_and_becomes_the_same_model(pretrained, tmp_path):
    output = tmp_path / "model"
    command = [sys.executable, "-m", "lexbeam.pipeline.cli", "pretrain", "--input", str(SAMPLE)]
    command += ["--output", str(output), *SMALL]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: list(output.glob("training/checkpoints/step-*")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (output / "model.safetensors").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert log_of(output) == log_of(pretrained)
    ours, theirs = (load_file(m / "model.safetensors") for m in (output, pretrained))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


@pytest.mark.slow
def test_two_processes_do_what_one_does(pretrained, tmp_path):
    output = tmp_path / "model"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
        "--standalone", "-m", "lexbeam.pipeline.cli", "pretrain", "--input", str(SAMPLE),
        "--output", str(output), *SMALL, "--max_batch_tokens", "128",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    # One of them prepares and reports.
    assert done.stderr.count("model: ") == 1
    for one, other in zip(log_of(output), log_of(pretrained), strict=True):
        assert one["step"] == other["step"]
        assert one["eval_loss"] == pytest.approx(other["eval_loss"], rel=1e-3)
    ours, theirs = (load_file(m / "model.safetensors") for m in (output, pretrained))
    difference, size = (
        sum(float(np.square(each).sum()) for each in values) ** 0.5
        for values in ((ours[name] - theirs[name] for name in theirs), theirs.values())
    )
    assert difference < 1e-3 * size
