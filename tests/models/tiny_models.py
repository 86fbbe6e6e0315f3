"""Tiny random models of every family, with tokenizers, written as model directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FAMILIES = ("bert", "roberta", "xlm-roberta", "mpnet", "distilbert")
POSITIONS = 64
DIMENSIONS = 32
ENGLISH = (
    "The river carries cold water past the old mill. Two boats wait near the bridge! "
    "Who keeps the lamp burning at night? A quiet harbour, seven gulls and one red flag."
)
CHINESE = "河水流过旧磨坊。两只小船停在桥边！谁在夜里点灯？安静的港口，七只海鸥和一面红旗。"
TEXTS = (ENGLISH, CHINESE, "water 河水 bridge 桥", "a", "gulls, gulls, gulls.")


def write_tiny_model(
    directory: Path, model_type: str, *, prefix: str = "", positions: int = POSITIONS
) -> Path:
    """Write a random two-layer model that sees `positions` tokens; returns `directory`."""
    import torch
    from transformers import AutoConfig, AutoModel

    directory.mkdir(parents=True, exist_ok=True)
    vocab_size, special = write_tokenizer(directory, model_type)
    sizes: dict[str, Any]
    if model_type == "distilbert":
        sizes = {"dim": DIMENSIONS, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    else:
        sizes = {
            "hidden_size": DIMENSIONS,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
        }
    padded = model_type in ("roberta", "xlm-roberta", "mpnet")
    config = AutoConfig.for_model(
        model_type,
        vocab_size=vocab_size,
        max_position_embeddings=positions + (special["pad"] + 1 if padded else 0),
        pad_token_id=special["pad"],
        bos_token_id=special["open"],
        eos_token_id=special["close"],
        initializer_range=0.3,
        **sizes,
    )
    torch.manual_seed(7)
    AutoModel.from_config(config).save_pretrained(directory)
    if prefix:
        prompts = {"prompts": {"passage": prefix, "query": "ask: "}}
        (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return directory


def write_tiny_classifier(directory: Path, labels: tuple[str, ...]) -> Path:
    """Write a random BERT with a head of classes; returns `directory`."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    write_tiny_model(directory, "bert")
    names = dict(enumerate(labels))
    config = AutoConfig.from_pretrained(
        directory, id2label=names, label2id={label: number for number, label in names.items()}
    )
    torch.manual_seed(8)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(directory)
    return directory


def write_tokenizer(directory: Path, model_type: str) -> tuple[int, dict[str, int]]:
    """Train and save a small tokenizer in the family's style; vocabulary size, special ids."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers import trainers as t

    names = {"open": "<s>", "pad": "<pad>", "close": "</s>", "unk": "<unk>", "mask": "<mask>"}
    if model_type in ("bert", "distilbert"):
        keys = {"pad": "[PAD]", "unk": "[UNK]", "open": "[CLS]", "close": "[SEP]", "mask": "[MASK]"}
        names = keys
    tokens = list(names.values())
    trainer: Any
    if model_type in ("bert", "distilbert", "mpnet"):
        tokenizer = Tokenizer(models.WordPiece(unk_token=names["unk"]))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = t.WordPieceTrainer(vocab_size=260, special_tokens=tokens, show_progress=False)
    elif model_type == "roberta":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = t.BpeTrainer(
            vocab_size=400, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = t.UnigramTrainer(
            vocab_size=260, special_tokens=tokens, unk_token="<unk>", show_progress=False
        )
    tokenizer.train_from_iterator([ENGLISH, CHINESE, "passage: ", "ask: "], trainer)
    ids = {key: tokenizer.token_to_id(name) for key, name in names.items()}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{names['open']} $A {names['close']}",
        pair=f"{names['open']} $A {names['close']} $B {names['close']}",
        special_tokens=[(names[key], ids[key]) for key in ("open", "close")],
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "cls_token": names["open"],
        "sep_token": names["close"],
        "pad_token": names["pad"],
        "unk_token": names["unk"],
        "mask_token": names["mask"],
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer.get_vocab_size(), ids


def reference(
    directory: Path, texts: list[str], *, max_length: int = POSITIONS, pooling: str = "mean"
) -> tuple[npt.NDArray[np.float32], list[npt.NDArray[np.float32]]]:
    """Embeddings and received attention by plain transformers, one text at a time.

    Attention of every token, special ones included, summed over heads and query tokens.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory, attn_implementation="eager").eval()
    vectors, attention = [], []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            outputs = model(**inputs, output_attentions=True)
        hidden = outputs.last_hidden_state[0]
        vector = hidden[0] if pooling == "cls" else hidden.mean(dim=0)
        vectors.append((vector / vector.norm()).numpy())
        attention.append(outputs.attentions[-1][0].sum(dim=(0, 1)).numpy())
    return np.stack(vectors), attention
