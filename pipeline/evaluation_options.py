"""Options of `lexbeam evaluate`, and the protocol that its help states."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from lexbeam.models.config import ConfigError, require_at_least
from lexbeam.pipeline import options

PROTOCOL = """\
protocol:
  Gold keyphrases are read from JSONL files with `id` and `keywords` (a list of
  strings); ids are those of the run's documents. Every keyword column of the
  run is scored, and with it the first phrases of each document and, in
  Chinese, jieba.analyse's TF-IDF and TextRank on the same text.

  A phrase is right if it equals a gold one: lower case of NFKC; English words
  by their Porter stems. Phrases that are equal by this count once. P@k =
  right ones among the first k / phrases among the first k; R@k = right ones /
  gold phrases; F@k = 2PR / (P + R). Macro figures are means over documents (F
  of each document, then the mean), micro ones come from the sums over
  documents. `present` counts only the gold phrases that occur in the
  document. Documents without a gold phrase are left out.

  `fused better by` is the mean difference of F@k between the fused keywords
  and the row, in points, with its 95 % interval by paired bootstrap over
  documents.

  --fit_weights fits the weights of the fused keywords to the gold, under the
  signs of the features: a conditional logit in each document, all gold sets
  counting alike, with a ridge towards the run's weights that 5-fold
  cross-validation chooses by the mean F over --k. The F that it prints is of
  documents that the weights were not fitted to. Texts are read again from the
  run's input, and encoded again.
"""


def evaluate_parser() -> argparse.ArgumentParser:
    """The parser of `lexbeam evaluate`."""
    parser = options.Parser(
        prog="lexbeam evaluate",
        description="Score a run's keywords against gold keyphrases.",
        epilog=PROTOCOL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="OUT/runs/RUN_ID, or OUT for its latest run")
    add(
        "--gold",
        nargs="+",
        action="extend",
        metavar="FILE",
        help="JSONL with id and keywords; may be repeated",
    )
    add("--k", type=_list_lengths, default=(5, 10), metavar="K,K", help="default: 5,10")
    add(
        "--diversity",
        action="store_true",
        help="leave near-duplicates and sub-phrases out of every list first",
    )
    add(
        "--samples",
        type=int,
        default=2_000,
        metavar="N",
        help="samples of the bootstrap (default: 2000)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of bootstrap and folds (default: 0)")
    add("--json", metavar="FILE", help="write the figures as JSON, too")
    add(
        "--fit_weights",
        metavar="FILE",
        help="fit the weights of the fused keywords, write them for 'run --keyword_weights'",
    )
    return parser


def parse_evaluate(arguments: Sequence[str]) -> argparse.Namespace:
    """Parsed options; raises ConfigError naming the one that is wrong."""
    parsed = evaluate_parser().parse_args(options.normalise_flags(arguments))
    if not parsed.gold:
        raise ConfigError("gold", "", "name a JSONL file with id and keywords")
    require_at_least("samples", parsed.samples, 1)
    require_at_least("seed", parsed.seed, 0)
    return parsed


def _list_lengths(text: str) -> tuple[int, ...]:
    try:
        ks = sorted({int(part) for part in text.split(",")})
    except ValueError:
        ks = []
    if not ks or ks[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers from 1, as 5,10")
    return tuple(ks)


def evaluation_options(parsed: argparse.Namespace) -> dict[str, Any]:
    """Fields of `evaluate.EvaluationOptions`."""
    return {
        "ks": parsed.k,
        "diversity": parsed.diversity,
        "samples": parsed.samples,
        "seed": parsed.seed,
    }
