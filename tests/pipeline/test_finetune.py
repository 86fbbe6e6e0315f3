"""`lexbeam finetune`, and the models that it makes in `lexbeam run`."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lexbeam.models.encoder_windows import TextTokenizer
from lexbeam.models.training.trainer import Trainer
from lexbeam.transforms.part_files import read_part
from tests.helpers import wait_until
from tests.models.tiny_models import write_tiny_model
from tests.pipeline.conftest import only_run, read_dataset, read_manifest, write_jsonl

WORDS = {
    "nature": "river mountain forest stone water gull harbour".split(),
    "money": "market price stock bank trade profit loss".split(),
    "体育": "球队 比赛 冠军 足球 进球 教练 球员".split(),
}
COMMAND = [sys.executable, "-m", "lexbeam.pipeline.cli", "finetune"]
SMALL = (
    "--max_seq_length", "32", "--num_epochs", "6", "--learning_rate", "2e-3", "--dtype", "float32",
    "--eval_steps", "6",
)  # fmt: skip


def labelled(number: int = 72) -> list[dict]:
    """Documents of three classes; the titles are words of the texts."""
    chance = random.Random(3)
    rows = []
    for index in range(number):
        label = list(WORDS)[index % 3]
        words = [chance.choice(WORDS[label]) for _ in range(chance.randint(6, 40))]
        title = " ".join(sorted(set(words))[:3]) + f" {index}"
        rows.append({"id": f"d{index}", "title": title, "text": " ".join(words), "label": label})
    return rows


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", "bert", prefix="text: ")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("labelled") / "corpus.jsonl", labelled())


def finetune(*options: object) -> subprocess.CompletedProcess:
    command = [*COMMAND, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, tiny, corpus) -> Path:
    output = tmp_path_factory.mktemp("classifier") / "model"
    done = finetune(
        "--task", "classify", "--label_key", "label", "--input", corpus, "--model_id", tiny,
        "--output", output, *SMALL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"model: {output}" in done.stderr
    return output


def record_of(model: Path) -> dict:
    return json.loads((model / "training.json").read_text(encoding="utf-8"))


def errors_of(model: Path) -> list[dict]:
    (part,) = (model / "training" / "errors").glob("*.parquet")
    return read_part(str(part)).sort_by("position").to_pylist()


def positions(corpus: Path, rows: Iterable[int]) -> list[int]:
    lines = corpus.read_bytes().splitlines(keepends=True)
    return [sum(map(len, lines[:row])) for row in rows]


def held_out_of(model: Path) -> list[dict]:
    lines = (model / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def weights_of(model: Path) -> dict[str, np.ndarray]:
    return load_file(model / "model.safetensors")


class TestClassify:
    def test_the_output_holds_the_model_and_all_there_is_to_know(self, classifier):
        names = {path.name for path in classifier.iterdir()}
        assert names == {
            "config.json", "model.safetensors", "tokenizer.json", "modules.json", "1_Pooling",
            "2_Normalize", "config_sentence_transformers.json", "sentence_bert_config.json",
            "training.json", "held_out.jsonl", "curves.png", "confusion_matrix.png", "training",
            "tokenizer_config.json",
        }  # fmt: skip
        for name in ("curves.png", "confusion_matrix.png"):
            assert (classifier / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        record = record_of(classifier)
        assert (record["documents"], record["rejected"], record["examples"]) == (72, {}, 72)
        assert (record["train_examples"], record["held_out_examples"]) == (57, 15)
        assert record["after"]["accuracy"] > 0.8
        assert [each["label"] for each in record["after"]["classes"]] == sorted(WORDS)
        assert np.sum(record["after"]["confusion_matrix"]) == 15
        assert [entry["step"] for entry in record["log"]] == [6, 12, 18]

    def test_its_scores_are_those_of_the_predictions_it_leaves(self, classifier):
        rows = held_out_of(classifier)
        after = record_of(classifier)["after"]
        right = np.mean([row["label"] == row["predicted"] for row in rows])
        assert right == pytest.approx(after["accuracy"])
        gold = {row["id"]: row["label"] for row in labelled()}
        assert all(gold[row["doc_id"]] == row["label"] for row in rows)
        assert {row["label"] for row in rows} == set(WORDS)

    def test_transformers_and_sentence_transformers_load_it(self, classifier, tiny):
        import transformers
        from sentence_transformers import SentenceTransformer

        from lexbeam.models.encoder_torch import quiet_transformers

        with quiet_transformers():
            model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
                classifier, output_loading_info=True
            )
            vectors = SentenceTransformer(str(classifier), device="cpu")
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        assert [model.config.id2label[number] for number in range(3)] == sorted(WORDS)
        assert vectors.prompts["document"] == "text: "
        assert vectors.max_seq_length == 32
        assert vectors.encode(["river"]).shape == (1, 32)

    def test_the_embeddings_stay_and_layers_change(self, classifier, tiny):
        before, after = weights_of(tiny), weights_of(classifier)
        word = "embeddings.word_embeddings.weight"
        assert (before[word] == after[f"bert.{word}"]).all()
        query = "encoder.layer.0.attention.self.query.weight"
        assert (before[query] != after[f"bert.{query}"]).any()

    def test_the_same_command_again_does_nothing_and_others_need_another_folder(
        self, classifier, tiny, corpus, lexbeam
    ):
        command = (
            "finetune", "--task", "classify", "--label_key", "label", "--input", corpus,
            "--model_id", tiny, "--output", classifier, *SMALL,
        )  # fmt: skip
        result = lexbeam(*command)
        assert (result.code, "complete already" in result.err) == (0, True)
        result = lexbeam(*command, "--class_weights", "balanced")
        assert result.code == 2
        assert "--class_weights 'balanced' ('none' there)" in result.err

    def test_killed_before_its_first_checkpoint_it_begins_with_the_same_head(
        self, classifier, tiny, corpus, lexbeam, tmp_path, monkeypatch
    ):
        step = Trainer.step

        def killed(self, number):
            if number == 2:
                raise KeyboardInterrupt
            return step(self, number)

        command = (
            "finetune", "--task", "classify", "--label_key", "label", "--input", corpus,
            "--model_id", tiny, "--output", tmp_path / "m", *SMALL,
        )  # fmt: skip
        monkeypatch.setattr(Trainer, "step", killed)
        assert lexbeam(*command).code == 130
        assert (tmp_path / "m" / "training" / "before.json").exists()
        monkeypatch.undo()
        again = lexbeam(*command)
        assert again.code == 0, again.err
        ours, theirs = weights_of(tmp_path / "m"), weights_of(classifier)
        assert all((ours[name] == theirs[name]).all() for name in theirs)

    @pytest.mark.slow
    def test_cut_differently_it_is_the_same_model(self, classifier, tiny, corpus, tmp_path):
        done = finetune(
            "--task", "classify", "--label_key", "label", "--input", corpus, "--model_id", tiny,
            "--output", tmp_path / "m", *SMALL, "--split_size", "3K",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        ours, theirs = weights_of(tmp_path / "m"), weights_of(classifier)
        assert all((ours[name] == theirs[name]).all() for name in theirs)

    def test_a_label_of_any_plain_kind_is_a_class(self, tiny, lexbeam, tmp_path):
        rows = labelled(24)
        for row in rows:
            row["label"] = {"nature": 1, "money": True, "体育": "1.5"}[row["label"]]
        result = lexbeam(
            "finetune", "--task", "classify", "--label_key", "label", "--model_id", tiny,
            "--input", write_jsonl(tmp_path / "c.jsonl", rows), "--output", tmp_path / "m",
            "--max_seq_length", "32", "--num_epochs", "1", "--class_weights", "balanced",
            "--frozen_layers", "1",
        )  # fmt: skip
        assert result.code == 0, result.err
        config = json.loads((tmp_path / "m" / "config.json").read_text())
        assert config["label2id"] == {"1": 0, "1.5": 1, "true": 2}


def labels_of(folder: Path) -> dict[str, tuple[str, float]]:
    table = read_dataset(only_run(folder), "documents")
    columns = (table[name].to_pylist() for name in ("doc_id", "label", "label_score"))
    return {doc_id: (label, score) for doc_id, label, score in zip(*columns, strict=True)}


def expected_labels(model: Path) -> dict[str, tuple[str, float]]:
    """As transformers has them, of documents that fit one window."""
    import torch
    import transformers

    from lexbeam.models.encoder_torch import quiet_transformers

    with quiet_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        loaded = transformers.AutoModelForSequenceClassification.from_pretrained(model)
    found = {}
    for row in labelled():
        inputs = tokenizer(f"text: {row['title']}\n{row['text']}", return_tensors="pt")
        if inputs["input_ids"].shape[1] > 32:
            continue
        with torch.no_grad():
            shares = loaded.eval()(**inputs).logits.softmax(dim=-1)[0]
        best = int(shares.argmax())
        found[row["id"]] = (loaded.config.id2label[best], float(shares[best]))
    return found


class TestRun:
    @pytest.mark.parametrize("backend", ["openvino", pytest.param("torch", marks=pytest.mark.slow)])
    def test_labels_beside_other_features(self, classifier, corpus, lexbeam, tmp_path, backend):
        result = lexbeam(
            "run", "--input", corpus, "--output", tmp_path, "--features", "tfidf",
            "--classifier", classifier, "--backend", backend, "--dtype", "float32",
        )  # fmt: skip
        assert result.code == 0, result.err
        assert "classes" in result.err
        found, expected = labels_of(tmp_path), expected_labels(classifier)
        assert len(found) == 72
        assert len(expected) > 3
        for doc_id, (label, score) in expected.items():
            assert found[doc_id][0] == label
            assert found[doc_id][1] == pytest.approx(score, abs=1e-4)
        # Also of documents of several windows it is what the fine-tuning was scored by.
        scored = held_out_of(classifier)
        assert len(scored) > len(expected)
        for row in scored:
            label, score = found[row["doc_id"]]
            assert (label, score) == (row["predicted"], pytest.approx(row["score"], abs=1e-4))
        manifest = read_manifest(only_run(tmp_path))
        assert sum(manifest["totals"]["documents_by_label"].values()) == 72
        assert "classify" in [stage["stage"] for stage in manifest["stages"]]
        assert manifest["model"] is None

    def test_where_the_encoder_is_the_same_one_pass_does_both(
        self, classifier, corpus, lexbeam, tmp_path
    ):
        same = ("--model_id", classifier, "--max_seq_length", "32", "--features", "bert")
        for name, options in (("one", same), ("plain", ("--features", "tfidf"))):
            result = lexbeam(
                "run", "--input", corpus, "--output", tmp_path / name, "--classifier", classifier,
                *options,
            )  # fmt: skip
            assert result.code == 0, result.err
        stages = [s["stage"] for s in read_manifest(only_run(tmp_path / "one"))["stages"]]
        assert "encode" in stages
        assert "classify" not in stages
        one, plain = labels_of(tmp_path / "one"), labels_of(tmp_path / "plain")
        assert {k: v[0] for k, v in one.items()} == {k: v[0] for k, v in plain.items()}
        # The embeddings are those of a run without a classifier.
        result = lexbeam(
            "run", "--input", corpus, "--output", tmp_path / "without", *same,
        )  # fmt: skip
        assert result.code == 0, result.err
        assert "reusing" not in result.err
        vectors = [
            read_dataset(only_run(tmp_path / name), "documents").sort_by("doc_id")["embedding"]
            for name in ("one", "without")
        ]
        np.testing.assert_allclose(
            *(np.array(each.to_pylist()) for each in vectors), rtol=0, atol=1e-6
        )

    @pytest.mark.slow
    def test_other_windows_take_two_passes_and_say_so(self, classifier, corpus, lexbeam, tmp_path):
        result = lexbeam(
            "run", "--input", corpus, "--output", tmp_path, "--classifier", classifier,
            "--model_id", classifier, "--max_seq_length", "64", "--features", "bert",
        )  # fmt: skip
        assert result.code == 0, result.err
        assert "With --max_seq_length 32 once is enough" in result.err
        stages = [s["stage"] for s in read_manifest(only_run(tmp_path))["stages"]]
        assert {"encode", "classify"} <= set(stages)

    def test_a_text_that_breaks_the_classifier_costs_only_itself(
        self, classifier, corpus, lexbeam, tmp_path, monkeypatch
    ):
        tokenize = TextTokenizer.tokenize

        def refuse(self, contents):
            if any(" 7\n" in content for content in contents):
                raise RuntimeError("the tokenizer chokes")
            return tokenize(self, contents)

        monkeypatch.setattr(TextTokenizer, "tokenize", refuse)
        result = lexbeam(
            "run", "--input", corpus, "--output", tmp_path, "--features", "tfidf",
            "--classifier", classifier,
        )  # fmt: skip
        assert result.code == 0, result.err
        (error,) = read_dataset(only_run(tmp_path), "errors").to_pylist()
        assert (error["doc_id"], error["stage"]) == ("d7", "classify")
        assert (error["error_type"], "chokes" in error["message"]) == ("encode-failed", True)
        found = labels_of(tmp_path)
        assert set(found) == {f"d{number}" for number in range(72)} - {"d7"}
        assert all(label in WORDS for label, _ in found.values())

    @pytest.mark.slow
    def test_a_transform_takes_a_classifier_too(self, classifier, corpus, lexbeam, tmp_path):
        result = lexbeam(
            "run", "--input", corpus, "--output", tmp_path / "fit", "--features", "tfidf"
        )
        assert result.code == 0, result.err
        result = lexbeam(
            "transform", "--model", tmp_path / "fit", "--input", corpus, "--features", "tfidf",
            "--output", tmp_path / "new", "--classifier", classifier,
        )  # fmt: skip
        assert result.code == 0, result.err
        assert set(label for label, _ in labels_of(tmp_path / "new").values()) == set(WORDS)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--keep_columns", "label"), "'label': is a column of --classifier; rename the field"),
            (("--classifier", "{tiny}"), "no classifier: BertModel instead of"),
            (("--classifier", "{folder}/nowhere"), "--classifier"),
        ],
    )
    def test_what_cannot_be_is_found_before_anything_runs(
        self, classifier, tiny, corpus, lexbeam, tmp_path, options, message
    ):
        options = [each.format(tiny=tiny, folder=tmp_path) for each in options]
        result = lexbeam(
            "run", "--input", corpus, "--output", tmp_path / "o", "--features", "tfidf",
            "--classifier", classifier, *options,
        )  # fmt: skip
        assert result.code == 2
        assert message in result.err
        assert not (tmp_path / "o").exists()


class TestEmbed:
    def test_titles_find_their_texts(self, tiny, corpus, lexbeam, tmp_path):
        result = lexbeam(
            "finetune", "--task", "embed", "--input", corpus, "--model_id", tiny, *SMALL,
            "--output", tmp_path / "m", "--batch_size", "16", "--eval_fraction", "0.3",
        )  # fmt: skip
        assert result.code == 0, result.err
        record = record_of(tmp_path / "m")
        assert record["after"]["num_pairs"] == record["held_out_examples"] == 22
        assert record["after"]["mrr"] > record["before"]["mrr"]
        names = {path.name for path in (tmp_path / "m").iterdir()}
        assert "curves.png" in names
        assert not {"confusion_matrix.png", "held_out.jsonl"} & names
        result = lexbeam(
            "run", "--input", corpus, "--output", tmp_path / "o", "--features", "bert",
            "--model_id", tmp_path / "m", "--max_seq_length", "32",
        )  # fmt: skip
        assert result.code == 0, result.err
        assert read_dataset(only_run(tmp_path / "o"), "documents")["embedding"].null_count == 0

    @pytest.mark.slow
    def test_given_pairs(self, tiny, lexbeam, tmp_path):
        rows = [row | {"answer": row["text"][::-1]} for row in labelled(30)]
        result = lexbeam(
            "finetune", "--task", "embed", "--pair_key", "answer", "--model_id", tiny, *SMALL,
            "--input", write_jsonl(tmp_path / "c.jsonl", rows), "--output", tmp_path / "m",
        )  # fmt: skip
        assert result.code == 0, result.err
        assert record_of(tmp_path / "m")["after"]["num_pairs"] == 6


class TestBadInput:
    def classify(self, lexbeam, tiny, folder: Path, rows: list[dict], *options: object):
        return lexbeam(
            "finetune", "--task", "classify", "--label_key", "label", "--model_id", tiny,
            "--input", write_jsonl(folder / "c.jsonl", rows), "--output", folder / "m",
            "--max_seq_length", "32", "--num_epochs", "1", *options,
        )  # fmt: skip

    def test_a_document_without_a_class_costs_only_itself(self, tiny, lexbeam, tmp_path):
        bad = {
            3: (None, "'label' is null, or not there"),
            5: ("  ", "'label' is \"  \""),
            6: (["a"], "'label' is an array: [\"a\"]; a document has one class"),
            9: (float("nan"), "NaN is not JSON"),
        }
        rows = labelled(30)
        for index, (value, _) in bad.items():
            rows[index]["label"] = value
        result = self.classify(lexbeam, tiny, tmp_path, rows)
        assert result.code == 0, result.err
        record = record_of(tmp_path / "m")
        assert (record["documents"], record["examples"]) == (30, 26)
        assert sum(record["rejected"].values()) == 4
        errors = errors_of(tmp_path / "m")
        assert [error["position"] for error in errors] == positions(tmp_path / "c.jsonl", bad)
        for error, (_, message) in zip(errors, bad.values(), strict=True):
            assert error["source"] == "c.jsonl"
            assert message in error["message"]

    def test_too_many_without_a_class_stop_it(self, tiny, lexbeam, tmp_path):
        rows = [{k: v for k, v in row.items() if k != "label"} for row in labelled(30)]
        result = self.classify(lexbeam, tiny, tmp_path, rows)
        assert result.code == 3
        assert "30 of 30 documents were rejected" in result.err
        assert "c.jsonl, position 0: 'label' is null, or not there" in result.err
        assert not (tmp_path / "m" / "model.safetensors").exists()

    @pytest.mark.parametrize(
        ("label", "message"),
        [
            (lambda index: "same", "every document has the label 'same'"),
            (lambda index: f"l{index}", "30 classes for 30 different texts"),
            (lambda index: "rare" if index == 3 else f"l{index % 2}", "fewer than 2 .*'rare'"),
        ],
    )
    def test_labels_that_are_no_task_stop_it_before_training(
        self, tiny, lexbeam, tmp_path, label, message
    ):
        rows = [row | {"label": label(index)} for index, row in enumerate(labelled(30))]
        result = self.classify(lexbeam, tiny, tmp_path, rows)
        assert result.code == 1
        assert re.search(message, result.err)
        assert "Nothing was trained" in result.err
        assert "step" not in result.err

    def test_a_pair_that_lacks_a_text_costs_only_itself(self, tiny, lexbeam, tmp_path):
        rows = labelled(30)
        rows[4]["title"] = None
        rows[7]["text"] = rows[7]["title"]
        result = lexbeam(
            "finetune", "--task", "embed", "--model_id", tiny, *SMALL, "--max_steps", "1",
            "--input", write_jsonl(tmp_path / "c.jsonl", rows), "--output", tmp_path / "m",
        )  # fmt: skip
        assert result.code == 0, result.err
        errors = errors_of(tmp_path / "m")
        assert [error["position"] for error in errors] == positions(tmp_path / "c.jsonl", (4, 7))
        assert "no 'title' to pair the text with" in errors[0]["message"]
        assert "'text' is the title" in errors[1]["message"]

    def test_pairs_without_a_second_text_stop_it(self, tiny, lexbeam, tmp_path):
        result = lexbeam(
            "finetune", "--task", "embed", "--pair_key", "answer", "--model_id", tiny,
            "--input", write_jsonl(tmp_path / "c.jsonl", labelled(30)), "--output", tmp_path / "m",
            "--max_seq_length", "32",
        )  # fmt: skip
        assert result.code == 3
        assert "c.jsonl, position 0: 'answer' is not there" in result.err

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ((), "--task is required: classify or embed"),
            (("--task", "classify"), "--label_key is required"),
            (("--task", "embed", "--label_key", "l"), "--label_key 'l': is for --task classify"),
            (("--task", "embed", "--class_weights", "balanced"), "is for --task classify"),
            (
                ("--task", "classify", "--label_key", "text"),
                "--label_key 'text': is the --text_key",
            ),
            (
                ("--task", "classify", "--label_key", "l", "--temperature", "1"),
                "is for --task embed",
            ),
            (("--task", "classify", "--label_key", "language"), "--label_key 'language'"),
        ],
    )
    def test_wrong_usage_is_found_before_anything_is_read(
        self, options, message, lexbeam, tmp_path
    ):
        result = lexbeam("finetune", "--input", "x", "--output", tmp_path / "m", *options)
        assert result.code == 2
        assert message in result.err
        assert not (tmp_path / "m").exists()


@pytest.mark.kills
def test_a_training_that_is_killed_becomes_the_same_model(classifier, tiny, corpus, tmp_path):
    output = tmp_path / "model"
    command = [
        *COMMAND, "--task", "classify", "--label_key", "label", "--input", str(corpus),
        "--model_id", str(tiny), "--output", str(output), *SMALL,
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: list(output.glob("training/checkpoints/step-*")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (output / "model.safetensors").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "the training goes on from step 6 of 18" in done.stderr
    assert "damaged" not in done.stderr
    ours, theirs = weights_of(output), weights_of(classifier)
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert record_of(output)["before"] == record_of(classifier)["before"]


@pytest.mark.slow
@pytest.mark.parametrize("task", [("classify", "--label_key", "label"), ("embed",)])
def test_two_processes_do_what_one_does(tiny, corpus, tmp_path, task):
    options = ["--task", *task, "--input", str(corpus), "--model_id", str(tiny), *SMALL]
    options += ["--dropout", "0", "--max_batch_tokens", "128", "--batch_size", "18"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--standalone", "-m", "lexbeam.pipeline.cli", "finetune"]
    for name, command in (("one", COMMAND), ("two", launch)):
        done = subprocess.run(
            [*command, *options, "--output", str(tmp_path / name)],
            capture_output=True, text=True, check=False, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    difference, size = (
        sum(float(np.square(each).sum()) for each in values) ** 0.5
        for values in ((two[name] - one[name] for name in one), one.values())
    )
    assert difference < 1e-3 * size
