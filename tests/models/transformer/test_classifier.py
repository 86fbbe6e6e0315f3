"""Classifiers: the same scores as transformers', both ways, in every family."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from lexbeam.models.encoder_spec import ModelError
from lexbeam.models.encoder_torch import quiet_transformers
from lexbeam.models.transformer import checkpoints
from lexbeam.models.transformer.classifier import TextClassifier, mean_tokens
from lexbeam.models.transformer.layouts import Packed
from tests.models.transformer.test_checkpoints import DISTILBERT, LENGTHS, SIZES, batch, save, stir

LABELS = {0: "sport", 1: "money", 2: "体育"}


@pytest.fixture
def reference(request, tmp_path):
    sizes = DISTILBERT if request.param == "distilbert" else SIZES
    config = transformers.AutoConfig.for_model(
        request.param, **sizes, id2label=LABELS, label2id={v: k for k, v in LABELS.items()}
    )
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    stir(model)
    save(model, tmp_path / "theirs")
    return model, tmp_path / "theirs"


every_family = pytest.mark.parametrize("reference", list(checkpoints.FAMILIES), indirect=True)


def read(folder) -> TextClassifier:
    encoder = checkpoints.read_encoder(folder)
    return TextClassifier(encoder, checkpoints.read_classification_head(folder)).eval()


def logits(model, ids, mask):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask.long()).logits


@every_family
def test_a_classifier_that_is_read_gives_the_same_scores(reference):
    theirs, folder = reference
    ids, mask = batch()
    with torch.no_grad():
        ours = read(folder)(ids[mask], Packed.of_lengths(LENGTHS))
    torch.testing.assert_close(ours, logits(theirs, ids, mask), rtol=0, atol=1e-5)


@every_family
def test_a_classifier_that_is_written_is_theirs_again(reference, tmp_path):
    theirs, folder = reference
    family, _ = checkpoints.read_config(folder)
    like = json.loads((folder / "config.json").read_text())
    written = tmp_path / "ours"
    written.mkdir()
    checkpoints.write_classifier(read(folder), list(LABELS.values()), written, family, like)
    with quiet_transformers():
        again, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            written, output_loading_info=True
        )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert again.config.id2label == LABELS
    ids, mask = batch()
    assert torch.equal(logits(again.eval(), ids, mask), logits(theirs, ids, mask))


@every_family
def test_an_encoder_that_is_written_is_theirs_again(reference, tmp_path):
    _, folder = reference
    family, _ = checkpoints.read_config(folder)
    like = json.loads((folder / "config.json").read_text())
    encoder = checkpoints.read_encoder(folder)
    checkpoints.write_encoder(encoder, tmp_path, family, like)
    options = (
        {} if family.model_type in ("distilbert", "roformer") else {"add_pooling_layer": False}
    )
    with quiet_transformers():
        again, report = transformers.AutoModel.from_pretrained(
            tmp_path, output_loading_info=True, **options
        )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids, mask = batch()
    with torch.no_grad():
        expected = again.eval()(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask]
        ours = encoder(ids[mask], Packed.of_lengths(LENGTHS))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reference", ["bert"], indirect=True)
def test_a_head_that_is_missing_is_an_error(reference):
    _, folder = reference
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["3"] = "more"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"classifier.weight has the shape \[3, 32\]"):
        checkpoints.read_classification_head(folder)


def test_labels_are_those_of_classifiers_alone_in_the_order_of_their_numbers():
    names = {str(number): f"c{number}" for number in range(11)}
    config = {"architectures": ["BertForSequenceClassification"], "id2label": names}
    assert checkpoints.read_labels(config) == tuple(f"c{number}" for number in range(11))
    assert checkpoints.read_labels(config | {"architectures": ["BertModel"]}) == ()
    assert checkpoints.read_labels({"id2label": names}) == ()


def test_the_mean_is_over_a_text_s_own_tokens():
    hidden = torch.arange(12.0).reshape(6, 2)
    found = mean_tokens(hidden, Packed.of_lengths([2, 4]))
    assert found.tolist() == [[1.0, 2.0], [7.0, 8.0]]
