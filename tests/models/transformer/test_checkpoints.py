"""Checkpoints: the same numbers as transformers', both ways."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from lexbeam.models.encoder_spec import ModelError
from lexbeam.models.encoder_torch import quiet_transformers
from lexbeam.models.transformer import checkpoints
from lexbeam.models.transformer.config import TransformerConfig
from lexbeam.models.transformer.layouts import Packed, Padded
from lexbeam.models.transformer.model import Encoder, MaskedLanguageModel
from tests.models.tiny_models import TEXTS

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
DISTILBERT = {"vocab_size": 50, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
LENGTHS = [17, 9, 4]


def batch(lengths=LENGTHS, vocab_size=50) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, vocab_size, mask.shape, generator=generator)
    return ids.masked_fill(~mask, 1), mask


def stir(model) -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.fixture
def reference(request, tmp_path):
    """A random model of a family with its head, and the folder that it was saved in."""
    sizes = DISTILBERT if request.param == "distilbert" else SIZES
    config = transformers.AutoConfig.for_model(request.param, **sizes)
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    stir(model)
    save(model, tmp_path / "theirs")
    return model, tmp_path / "theirs"


def save(model, folder) -> None:
    with quiet_transformers():
        model.save_pretrained(folder)


def logits(model, ids, mask):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask.long()).logits[mask]


every_family = pytest.mark.parametrize("reference", list(checkpoints.FAMILIES), indirect=True)


@every_family
def test_a_checkpoint_that_is_read_gives_the_same_scores(reference):
    theirs, folder = reference
    model, has_head = checkpoints.read_masked_language_model(folder)
    assert has_head
    ids, mask = batch()
    expected = logits(theirs, ids, mask)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, Padded(mask))[mask], expected, rtol=0, atol=1e-5)
        packed = model(ids[mask], Packed.of_lengths(LENGTHS))
        torch.testing.assert_close(packed, expected, rtol=0, atol=1e-5)


@every_family
def test_a_checkpoint_that_is_written_is_theirs_again(reference, tmp_path):
    theirs, folder = reference
    model, _ = checkpoints.read_masked_language_model(folder)
    written = tmp_path / "ours"
    written.mkdir()
    family, _ = checkpoints.read_config(folder)
    like = json.loads((folder / "config.json").read_text())
    checkpoints.write_masked_language_model(model, written, family, like)
    with quiet_transformers():
        read, report = transformers.AutoModelForMaskedLM.from_pretrained(
            written, output_loading_info=True
        )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids, mask = batch()
    assert torch.equal(logits(read.eval(), ids, mask), logits(theirs, ids, mask))
    assert read.config.to_diff_dict() == theirs.config.to_diff_dict()


@pytest.mark.parametrize(
    ("position_encoding", "layer_norm", "family"),
    [
        ("learned", "post", "bert"),
        ("sinusoidal", "post", "bert"),
        ("rotary", "post", "roformer"),
        ("relative", "post", "mpnet"),
        ("learned", "pre", "roberta-prelayernorm"),
    ],
)
def test_a_model_of_ours_is_written_for_transformers(
    position_encoding, layer_norm, family, tmp_path
):
    config = TransformerConfig(
        vocab_size=50, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64,
        max_positions=40, position_encoding=position_encoding, layer_norm=layer_norm,
        type_vocab_size=0 if family == "mpnet" else 1,
        pad_token_id=0 if family in ("bert", "roformer") else 1,
        first_position=0 if family in ("bert", "roformer") else 2,
    )  # fmt: skip
    assert checkpoints.family_for(config).model_type == family
    model = MaskedLanguageModel(config).eval()
    stir(model)
    checkpoints.write_masked_language_model(model, tmp_path, checkpoints.FAMILIES[family])
    with quiet_transformers():
        theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    ids, mask = batch()
    with torch.no_grad():
        ours = model(ids, Padded(mask))[mask]
    torch.testing.assert_close(logits(theirs, ids, mask), ours, rtol=0, atol=1e-5)


def test_what_no_family_can_hold_is_an_error():
    config = TransformerConfig(vocab_size=5, position_encoding="rotary", layer_norm="pre")
    with pytest.raises(ValueError, match="no family of checkpoints has rotary positions and pre"):
        checkpoints.family_for(config)


def test_an_encoder_decoder_equals_theirs(tmp_path):
    encoder = transformers.BertConfig(**SIZES)
    sizes = SIZES | {"vocab_size": 60, "num_hidden_layers": 1, "num_attention_heads": 2}
    decoder = transformers.BertConfig(**sizes, is_decoder=True, add_cross_attention=True)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    theirs = transformers.EncoderDecoderModel(config=config).eval()
    stir(theirs)
    save(theirs, tmp_path)
    model = checkpoints.read_encoder_decoder(tmp_path)
    ids, mask = batch()
    lengths = [6, 17, 3]
    written, written_mask = batch(lengths, 60)
    with torch.no_grad():
        expected = theirs(
            input_ids=ids, attention_mask=mask.long(),
            decoder_input_ids=written, decoder_attention_mask=written_mask.long(),
        ).logits[written_mask]  # fmt: skip
        padded = model(ids, Padded(mask), written, Padded(written_mask))[written_mask]
        packed = model(
            ids[mask], Packed.of_lengths(LENGTHS), written[written_mask],
            Packed.of_lengths(lengths),
        )  # fmt: skip
    torch.testing.assert_close(padded, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(packed, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reference", ["bert"], indirect=True)
class TestDamaged:
    def test_an_encoder_alone_gets_a_new_head_that_is_tied(self, reference, tmp_path):
        theirs, _ = reference
        folder = tmp_path / "encoder"
        save(theirs.base_model, folder)
        model, has_head = checkpoints.read_masked_language_model(folder)
        assert not has_head
        ids, mask = batch()
        with torch.no_grad():
            scores = model(ids, Padded(mask))
            transformed = model.head.norm(
                model.head.activation(model.head.dense(model.encoder(ids, Padded(mask))))
            )
        tied = transformed @ theirs.base_model.embeddings.word_embeddings.weight.T
        torch.testing.assert_close(scores, tied)

    def test_a_missing_tensor_is_named(self, reference):
        _, folder = reference
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
        with pytest.raises(ModelError, match=r"no tensor bert\.encoder\.layer\.2\.attention"):
            checkpoints.read_encoder(folder)

    def test_another_shape_is_named(self, reference):
        _, folder = reference
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 51}))
        with pytest.raises(ModelError, match=r"\[50, 32\] instead of \[51, 32\]"):
            checkpoints.read_encoder(folder)

    @pytest.mark.parametrize("change", [{"model_type": "gpt2"}, {"hidden_act": "swish"}])
    def test_a_configuration_that_cannot_be_used_names_the_file(self, reference, change):
        _, folder = reference
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=r"config\.json: .*(gpt2|swish)"):
            checkpoints.read_encoder(folder)


def hidden_states_differ(directory) -> float:
    """Largest difference of the last hidden states from transformers', over some texts."""
    with quiet_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        theirs = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    inputs = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    mask = inputs["attention_mask"].bool()
    encoder: Encoder = checkpoints.read_encoder(directory)
    with torch.no_grad():
        expected = theirs(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).last_hidden_state[mask]
        padded = encoder(inputs["input_ids"], Padded(mask))[mask]
        packed = encoder(inputs["input_ids"][mask], Packed.of_lengths(mask.sum(1).tolist()))
    return max((each - expected).abs().max().item() for each in (padded, packed))


def test_the_default_model_s_hidden_states(default_model):
    assert hidden_states_differ(default_model.directory) < 1e-5


@pytest.mark.slow
def test_minilm_s_hidden_states():
    from lexbeam.models.catalogue import resolve_model

    assert hidden_states_differ(resolve_model("all-MiniLM-L6-v2").directory) < 1e-5
