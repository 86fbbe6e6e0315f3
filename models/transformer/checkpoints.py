"""Reads and writes Hugging Face checkpoints: `config.json` and safetensors, by their own names.

The families that lexbeam's encoder takes, RoFormer (rotary positions) and RoBERTa-PreLayerNorm
(pre-LN). Nothing in a directory is executed; pickled weights are never loaded.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from lexbeam.models.encoder_spec import WEIGHTS, damaged, read_json, weight_files
from lexbeam.models.transformer.classifier import ClassificationHead, TextClassifier
from lexbeam.models.transformer.config import TransformerConfig
from lexbeam.models.transformer.model import Encoder, EncoderDecoder, MaskedLanguageModel
from lexbeam.models.transformer.positions import sinusoidal_table

_BERT_LAYER = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_residual.norm": "attention.output.LayerNorm",
    "cross_attention.query": "crossattention.self.query",
    "cross_attention.key": "crossattention.self.key",
    "cross_attention.value": "crossattention.self.value",
    "cross_attention.output": "crossattention.output.dense",
    "cross_attention_residual.norm": "crossattention.output.LayerNorm",
    "feed_forward.expand": "intermediate.dense",
    "feed_forward.contract": "output.dense",
    "feed_forward_residual.norm": "output.LayerNorm",
}
_PRE_LAYER = _BERT_LAYER | {
    "attention_residual.norm": "attention.LayerNorm",
    "cross_attention_residual.norm": "crossattention.LayerNorm",
    "feed_forward_residual.norm": "intermediate.LayerNorm",
}
_MPNET_LAYER = _BERT_LAYER | {
    "attention.query": "attention.attn.q",
    "attention.key": "attention.attn.k",
    "attention.value": "attention.attn.v",
    "attention.output": "attention.attn.o",
    "attention_residual.norm": "attention.LayerNorm",
}
_DISTILBERT_LAYER = {
    "attention.query": "attention.q_lin",
    "attention.key": "attention.k_lin",
    "attention.value": "attention.v_lin",
    "attention.output": "attention.out_lin",
    "attention_residual.norm": "sa_layer_norm",
    "feed_forward.expand": "ffn.lin1",
    "feed_forward.contract": "ffn.lin2",
    "feed_forward_residual.norm": "output_layer_norm",
}
_BERT_TOP = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "relative.table": "encoder.relative_attention_bias",
    "norm": "LayerNorm",
}
_BERT_HEAD = {
    "head.dense": "cls.predictions.transform.dense",
    "head.norm": "cls.predictions.transform.LayerNorm",
    "head": "cls.predictions",
}
_ROBERTA_HEAD = {
    "head.dense": "lm_head.dense",
    "head.norm": "lm_head.layer_norm",
    "head": "lm_head",
}
_DISTILBERT_HEAD = {
    "head.dense": "vocab_transform",
    "head.norm": "vocab_layer_norm",
    "head": "vocab_projector",
}
_ROBERTA_CLASSIFIER = {"dense": "classifier.dense", "output": "classifier.out_proj"}
# Of a classifier's head: ours to theirs, with the base where BERT has the pooler of its encoder.
_CLASSIFIERS: dict[str, dict[str, str]] = {
    "bert": {"dense": "bert.pooler.dense", "output": "classifier"},
    "distilbert": {"dense": "pre_classifier", "output": "classifier"},
}
_CLASSIFIER_ACTIVATIONS = {"distilbert": "relu"}


@dataclass(frozen=True)
class Family:
    """How a family of checkpoints names things.

    Attributes:
        model_type: in config.json.
        base: name of the encoder in a model with a head.
        architecture: class of transformers with the head.
        layers: name of the list of layers.
        layer: names within a layer, ours to theirs.
        head: names of the head.
    """

    model_type: str
    base: str
    architecture: str
    layers: str = "encoder.layer"
    layer: Mapping[str, str] = field(default_factory=lambda: _BERT_LAYER)
    head: Mapping[str, str] = field(default_factory=lambda: _BERT_HEAD)

    def theirs(self, name: str) -> str:
        """Our name of a tensor as theirs, without the base."""
        module, _, tensor = name.rpartition(".")
        if module.startswith("layers."):
            _, number, inner = module.split(".", 2)
            return f"{self.layers}.{number}.{self.layer[inner]}.{tensor}"
        if module == "head" or module.startswith("head."):
            return f"{self.head[module]}.{tensor}"
        return f"{_BERT_TOP[module]}.{tensor}"

    def architecture_for(self, purpose: str) -> str:
        """Class of transformers with another head: `SequenceClassification`, or `Model` without."""
        stem = self.architecture.removesuffix("ForMaskedLM")
        return f"{stem}Model" if purpose == "Model" else f"{stem}For{purpose}"

    @property
    def classifier(self) -> Mapping[str, str]:
        """Names of a classifier's head."""
        return _CLASSIFIERS.get(self.model_type, _ROBERTA_CLASSIFIER)

    def classifier_activation(self, config: TransformerConfig) -> str:
        """What transformers applies in a classifier's head."""
        if self.model_type == "roformer":
            return config.activation
        return _CLASSIFIER_ACTIVATIONS.get(self.model_type, "tanh")


FAMILIES = {
    family.model_type: family
    for family in (
        Family("bert", "bert", "BertForMaskedLM"),
        Family("roberta", "roberta", "RobertaForMaskedLM", head=_ROBERTA_HEAD),
        Family("xlm-roberta", "roberta", "XLMRobertaForMaskedLM", head=_ROBERTA_HEAD),
        Family(
            "roberta-prelayernorm",
            "roberta_prelayernorm",
            "RobertaPreLayerNormForMaskedLM",
            layer=_PRE_LAYER,
            head=_ROBERTA_HEAD,
        ),
        Family("mpnet", "mpnet", "MPNetForMaskedLM", layer=_MPNET_LAYER, head=_ROBERTA_HEAD),
        Family("roformer", "roformer", "RoFormerForMaskedLM"),
        Family(
            "distilbert",
            "distilbert",
            "DistilBertForMaskedLM",
            layers="transformer.layer",
            layer=_DISTILBERT_LAYER,
            head=_DISTILBERT_HEAD,
        ),
    )
}
# Names of config.json by ours; DistilBERT has its own.
_CONFIG = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "type_vocab_size": "type_vocab_size",
    "pad_token_id": "pad_token_id",
    "layer_norm_eps": "layer_norm_eps",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
_DISTILBERT_CONFIG = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_layers": "n_layers",
    "num_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "pad_token_id": "pad_token_id",
    "activation": "activation",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
}
# Positions are counted from behind the padding's id.
_COUNTS_FROM_PADDING = ("roberta", "xlm-roberta", "roberta-prelayernorm", "mpnet")
_POSITIONS = {"roformer": "rotary", "mpnet": "relative"}


def read_config(directory: Path) -> tuple[Family, TransformerConfig]:
    """Family and sizes of a checkpoint, from its config.json.

    Raises ModelError naming the file where it cannot be used.
    """
    return family_and_config(read_json(directory, "config.json"), directory)


def family_and_config(
    config: Mapping[str, Any], directory: Path
) -> tuple[Family, TransformerConfig]:
    """Family and sizes that a config.json's object gives; see `read_config`."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        known = ", ".join(FAMILIES)
        reason = f"model_type {config.get('model_type')!r} is none of {known}"
        raise damaged(directory, "config.json", reason)
    model_type = family.model_type
    names = _DISTILBERT_CONFIG if model_type == "distilbert" else _CONFIG
    values = {ours: config[theirs] for ours, theirs in names.items() if theirs in config}
    if model_type in ("mpnet", "distilbert"):
        values["type_vocab_size"] = 0
    pad = int(config.get("pad_token_id", 1 if model_type in _COUNTS_FROM_PADDING else 0))
    first = pad + 1 if model_type in _COUNTS_FROM_PADDING else 0
    try:
        read = TransformerConfig(
            **values
            | {
                "pad_token_id": pad,
                "first_position": first,
                "max_positions": int(config.get("max_position_embeddings", 512)) - first,
                "position_encoding": _POSITIONS.get(model_type, "learned"),
                "absolute_positions": model_type == "mpnet",
                "layer_norm": "pre" if model_type == "roberta-prelayernorm" else "post",
                "relative_buckets": int(config.get("relative_attention_num_buckets", 32)),
            }
        )
    except (TypeError, ValueError) as error:
        raise damaged(directory, "config.json", str(error)) from error
    return family, read


def family_for(config: TransformerConfig) -> Family:
    """The family that can hold a model of such a configuration.

    Raises ValueError where none can.
    """
    for name in ("bert", "roformer", "mpnet", "roberta-prelayernorm"):
        positions = {"sinusoidal": "learned"}.get(
            config.position_encoding, config.position_encoding
        )
        is_pre = name == "roberta-prelayernorm"
        if _POSITIONS.get(name, "learned") == positions and (config.layer_norm == "pre") == is_pre:
            return FAMILIES[name]
    raise ValueError(
        f"no family of checkpoints has {config.position_encoding} positions and "
        f"{config.layer_norm}-LN"
    )


def read_tensors(directory: Path, names: Container[str] | None = None) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint by their names: all, or those among `names`.

    Raises ModelError where a file is missing or cut short.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in weight_files(directory):
        if names is None:
            tensors |= load_file(path)
            continue
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys() if name in names}
    return tensors


def read_encoder(directory: Path) -> Encoder:
    """The encoder of a checkpoint, in evaluation mode.

    Raises ModelError naming the directory where tensors are missing or of another shape.
    """
    family, config = read_config(directory)
    encoder = Encoder(config)
    _fill(encoder, _names(encoder, family), read_tensors(directory), directory)
    return encoder.eval()


def read_masked_language_model(directory: Path) -> tuple[MaskedLanguageModel, bool]:
    """A checkpoint with its head, in evaluation mode, and whether the head is its own.

    A head that is missing is new: its table is the embeddings', its other weights are random.
    Raises ModelError as `read_encoder` does.
    """
    family, config = read_config(directory)
    model, tensors = MaskedLanguageModel(config), read_tensors(directory)
    names = _names(model, family)
    has_head = names["head.dense.weight"] in tensors
    if not has_head:
        names = {ours: theirs for ours, theirs in names.items() if not ours.startswith("head.")}
    _fill(model, names, tensors, directory)
    return model.eval(), has_head


def read_encoder_decoder(directory: Path) -> EncoderDecoder:
    """A checkpoint of transformers' EncoderDecoderModel, in evaluation mode.

    Raises ModelError as `read_encoder` does.
    """
    config = read_json(directory, "config.json")
    sides = {}
    for side in ("encoder", "decoder"):
        inner = config.get(side)
        if not isinstance(inner, dict):
            raise damaged(directory, "config.json", f"no object {side!r}")
        sides[side] = family_and_config(inner, directory)
    model = EncoderDecoder(sides["encoder"][1], sides["decoder"][1])
    _fill(
        model,
        _encoder_decoder_names(model, sides["encoder"][0], sides["decoder"][0]),
        read_tensors(directory),
        directory,
    )
    return model.eval()


def write_masked_language_model(
    model: MaskedLanguageModel, directory: Path, family: Family, like: Mapping[str, Any] = {}
) -> None:
    """Write a model as transformers would.

    Args:
        model: what is written, as float32.
        directory: gets config.json and model.safetensors.
        family: how things are named.
        like: config.json of the checkpoint that the model began as; its other entries stay.
    """
    config = dict(like) | config_json(model.encoder.config, family)
    _write(directory, config, model, _names(model, family), family)


def write_encoder(
    encoder: Encoder, directory: Path, family: Family, like: Mapping[str, Any] = {}
) -> None:
    """Write an encoder as transformers would; see `write_masked_language_model`."""
    config = dict(like) | config_json(encoder.config, family)
    config["architectures"] = [family.architecture_for("Model")]
    names = {ours: family.theirs(ours) for ours in _parameters(encoder)}
    _write(directory, config, encoder, names, family, base="")


def write_classifier(
    model: TextClassifier,
    labels: Sequence[str],
    directory: Path,
    family: Family,
    like: Mapping[str, Any] = {},
) -> None:
    """Write a classifier as transformers would; see `write_masked_language_model`.

    labels: names of the classes, in the order of their scores.
    """
    config = dict(like) | config_json(model.encoder.config, family)
    config |= {
        "architectures": [family.architecture_for("SequenceClassification")],
        "problem_type": "single_label_classification",
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    _write(directory, config, model, _classifier_names(model, family), family)


def read_labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes that a config.json's object speaks of, if it is of a classifier."""
    architectures = config.get("architectures")
    names = config.get("id2label")
    is_classifier = isinstance(architectures, list) and any(
        str(name).endswith("ForSequenceClassification") for name in architectures
    )
    if not is_classifier or not isinstance(names, dict):
        return ()
    return tuple(str(names[key]) for key in sorted(names, key=int))


def read_classification_head(directory: Path) -> ClassificationHead:
    """The head of a classifier's checkpoint, in evaluation mode.

    Raises ModelError as `read_encoder` does.
    """
    family, config = read_config(directory)
    labels = read_labels(read_json(directory, "config.json"))
    head = new_head(family, config, len(labels))
    names = _head_names(head, family)
    # Not the encoder's: that is most of the file, and is read by its backend.
    _fill(head, names, read_tensors(directory, set(names.values())), directory)
    return head.eval()


def new_head(family: Family, config: TransformerConfig, num_labels: int) -> ClassificationHead:
    """A head of classes with random weights, as the family has it."""
    activation = family.classifier_activation(config)
    return ClassificationHead(config.hidden_size, num_labels, activation)


def _head_names(head: ClassificationHead, family: Family) -> dict[str, str]:
    """Their name of each parameter of a classifier's head."""
    return {
        ours: f"{family.classifier[module]}.{tensor}"
        for ours in _parameters(head)
        for module, tensor in [ours.split(".")]
    }


def _classifier_names(model: TextClassifier, family: Family) -> dict[str, str]:
    encoder, head = _names(model.encoder, family), _head_names(model.head, family)
    return {f"encoder.{ours}": theirs for ours, theirs in encoder.items()} | {
        f"head.{ours}": theirs for ours, theirs in head.items()
    }


def _write(
    directory: Path,
    config: Mapping[str, Any],
    model: nn.Module,
    names: Mapping[str, str],
    family: Family,
    base: str | None = None,
) -> None:
    """Write config.json and the parameters by their names; base: None is the family's."""
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")
    tensors = {
        theirs: model.get_parameter(ours).detach().to("cpu", torch.float32).contiguous()
        for ours, theirs in names.items()
    }
    encoder = model if isinstance(model, Encoder) else model.get_submodule("encoder")
    assert isinstance(encoder, Encoder)
    prefix = f"{family.base}." if base is None else base
    for name, fixed in _fixed_tables(encoder.config, family).items():
        tensors[f"{prefix}{name}"] = fixed.contiguous()
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def config_json(config: TransformerConfig, family: Family) -> dict[str, Any]:
    """What config.json says of such a model."""
    names = _DISTILBERT_CONFIG if family.model_type == "distilbert" else _CONFIG
    values = {theirs: getattr(config, ours) for ours, theirs in names.items()}
    values |= {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        "max_position_embeddings": config.max_positions + config.first_position,
        "torch_dtype": "float32",
        "tie_word_embeddings": True,
    }
    if family.model_type == "mpnet":
        values["relative_attention_num_buckets"] = config.relative_buckets
        del values["type_vocab_size"]
    return values


def _fixed_tables(config: TransformerConfig, family: Family) -> dict[str, torch.Tensor]:
    """Tables that the family's files have and the model computes, or has no use for."""
    if family.model_type == "roformer":
        table = sinusoidal_table(config.max_positions, config.head_size)
        halves = torch.cat([table[:, 0::2], table[:, 1::2]], dim=1)
        return {"encoder.embed_positions.weight": halves}
    if family.model_type == "mpnet" and not config.absolute_positions:
        rows = config.max_positions + config.first_position
        return {"embeddings.position_embeddings.weight": torch.zeros(rows, config.hidden_size)}
    return {}


def _parameters(module: nn.Module) -> Iterable[str]:
    return (name for name, _ in module.named_parameters())


def _names(model: nn.Module, family: Family) -> dict[str, str]:
    """Their name of each of our parameters, in a model with a head."""
    return {ours: _with_base(ours.removeprefix("encoder."), family) for ours in _parameters(model)}


def _with_base(name: str, family: Family) -> str:
    is_head = name.startswith("head.")
    return family.theirs(name) if is_head else f"{family.base}.{family.theirs(name)}"


def _encoder_decoder_names(
    model: EncoderDecoder, encoder: Family, decoder: Family
) -> dict[str, str]:
    names = {}
    for ours in _parameters(model):
        side, _, name = ours.partition(".")
        if side == "encoder":
            names[ours] = f"encoder.{encoder.theirs(name)}"
        else:
            inner = ours if side == "head" else name
            names[ours] = f"decoder.{_with_base(inner, decoder)}"
    return names


def _fill(
    model: nn.Module, names: Mapping[str, str], tensors: Mapping[str, torch.Tensor], directory: Path
) -> None:
    """Copy tensors into parameters; an encoder's may lack the base before their names."""
    for ours, theirs in names.items():
        found = tensors.get(theirs)
        if found is None:
            found = tensors.get(theirs.partition(".")[2])
        parameter = model.get_parameter(ours)
        if found is None:
            raise damaged(directory, WEIGHTS, f"no tensor {theirs}")
        if found.shape != parameter.shape:
            shapes = f"{list(found.shape)} instead of {list(parameter.shape)}"
            raise damaged(directory, WEIGHTS, f"{theirs} has the shape {shapes}")
        with torch.no_grad():
            parameter.copy_(found)
