"""The graphs of the stages: each map stage is one fused executable stage, and small."""

from __future__ import annotations

import re
from dataclasses import replace

import apache_beam as beam
import pytest
from apache_beam.portability import common_urns
from apache_beam.runners.portability.fn_api_runner import translations

from lexbeam.models.config import EncoderConfig
from lexbeam.models.encoder_spec import ModelSpec
from lexbeam.models.finetuning.config import FinetuningConfig
from lexbeam.models.pretraining.config import PretrainingConfig
from lexbeam.pipeline import stages
from lexbeam.pipeline.options import JobConfig
from lexbeam.pipeline.plan import Plan
from lexbeam.pipeline.runs import RunDir
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms import splits

NUM_SPLITS = 1000
MAP_STAGES = {
    "tokenize": stages.tokenize,
    "bow": stages.bag_of_words,
    "encode": stages.encode,
    "extract": lambda work: stages.extract(work, has_topics=True),
    "errors": stages.collect_errors,
    "sequences": stages.make_sequences,
    "examples": stages.make_examples,
    "classify": stages.classify,
}
ENCODER = EncoderConfig(backend="torch", dtype="float32", device="cpu", pooling="mean")


@pytest.fixture
def work(tmp_path) -> Workspace:
    config = JobConfig(
        input=splits.InputConfig(inputs=("in.jsonl",)),
        encoder=ENCODER,
        classifier=ENCODER,
    )
    source = splits.Source("in.jsonl", "in.jsonl", 10**9, "v", "jsonl")
    pieces = tuple(
        splits.Split(index, (splits.Piece(0, index, index + 1),)) for index in range(NUM_SPLITS)
    )
    spec = ModelSpec("m", tmp_path, "f", "bert", 8, 64, "mean", "", "")
    layout = splits.Layout(config.input, (source,), pieces)
    plan = Plan(
        "run", "", config, layout, spec, "local", None, {}, pretraining=PretrainingConfig(),
        finetuning=FinetuningConfig("classify"), classifier=replace(spec, labels=("a", "b")),
    )  # fmt: skip
    return Workspace(RunDir(str(tmp_path), "r"), plan)


def proto_of(stage: stages.Stage):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    (build,) = stage.pipelines()
    build(pipeline)
    return pipeline.to_runner_api()


def fused_stages(proto) -> list[set[str]]:
    """Names of the ParDos in each executable stage."""
    _, fused = translations.create_and_optimize_stages(
        proto,
        [
            translations.annotate_downstream_side_inputs,
            translations.fix_side_input_pcoll_coders,
            translations.expand_gbk,
            translations.sink_flattens,
            translations.greedily_fuse,
            translations.read_to_impulse,
            translations.sort_stages,
        ],
        known_runner_urns=frozenset(
            [common_urns.primitives.FLATTEN.urn, common_urns.primitives.GROUP_BY_KEY.urn]
        ),
        use_state_iterables=False,
        is_drain=False,
    )
    return [
        {
            transform.unique_name
            for transform in stage.transforms
            if transform.spec.urn == common_urns.primitives.PAR_DO.urn
        }
        for stage in fused
    ]


@pytest.mark.parametrize("name", MAP_STAGES)
def test_a_map_stage_reads_and_writes_in_one_executable_stage(work, name):
    found = fused_stages(proto_of(MAP_STAGES[name](work)))
    (reading,) = [names for names in found if any("ReadBlocks" in n for n in names)]
    all_writers = {n for names in found for n in names if n.endswith("WritePart")}
    assert all_writers
    assert all_writers <= reading


@pytest.mark.parametrize("name", MAP_STAGES)
def test_the_graph_stays_small_whatever_the_corpus(work, name):
    assert len(proto_of(MAP_STAGES[name](work)).SerializeToString()) < 60_000


@pytest.mark.parametrize("name", MAP_STAGES)
def test_blocks_travel_by_their_own_coder(work, name):
    proto = proto_of(MAP_STAGES[name](work))
    coders = proto.components.coders
    giver = (
        r"/(ReadBlocks|Tokenize|BagOfWords|Encode|Make|ParDo\(ExtractDoFn\)|CollectErrors)\.\w+$"
    )
    of_blocks = [
        pcollection
        for pcollection in proto.components.pcollections.values()
        if re.search(giver, pcollection.unique_name)
    ]
    assert len(of_blocks) == (3 if name == "extract" else 2)
    for pcollection in of_blocks:
        assert b"RecordBatchCoder" in coders[pcollection.coder_id].SerializeToString()
