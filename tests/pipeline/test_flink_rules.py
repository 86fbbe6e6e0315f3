"""What Flink's portable batch translator does not take, or takes badly, is in no pipeline."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.coders.coder_impl import create_InputStream
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.execution import GroupingBuffer
from apache_beam.runners.portability.portable_runner import PortableRunner

from lexbeam.pipeline import launch
from tests.models.tiny_models import write_tiny_classifier, write_tiny_model

SAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "corpus"
# Carried out by Flink itself.
OF_THE_RUNNER = {
    "beam:transform:impulse:v1",
    "beam:transform:flatten:v1",
    "beam:transform:group_by_key:v1",
    "beam:transform:reshuffle:v1",
}
# Carried out by a worker, inside of an executable stage.
OF_A_WORKER = {
    "beam:transform:pardo:v1",
    "beam:transform:combine_grouped_values:v1",
    "beam:transform:combine_per_key_precombine:v1",
    "beam:transform:combine_per_key_merge_accumulators:v1",
    "beam:transform:combine_per_key_extract_outputs:v1",
    "beam:transform:window_into:v1",
}
# Each wants network buffers and a slot's share of everything.
MOST_SOURCES, MOST_SINKS, MOST_SHUFFLES = 4, 4, 8
LARGEST_RECORD = 10 << 20

Pipeline = beam_runner_api_pb2.Pipeline


def leaves(pipeline: Pipeline) -> list[beam_runner_api_pb2.PTransform]:
    """The transforms that a runner sees; a Reshuffle is one, whatever it is made of."""
    found, todo = [], list(pipeline.root_transform_ids)
    transforms = pipeline.components.transforms
    while todo:
        transform = transforms[todo.pop()]
        if transform.subtransforms and transform.spec.urn not in OF_THE_RUNNER:
            todo += transform.subtransforms
        elif set(transform.outputs.values()) - set(transform.inputs.values()):
            found.append(transform)
    return found


def violations(pipeline: Pipeline) -> list[str]:
    """What is wrong with a pipeline, each with the transform's name."""
    found, consumers, urns = [], defaultdict(set), defaultdict(int)
    produced = set()
    for transform in leaves(pipeline):
        urn = transform.spec.urn
        urns[urn] += 1
        if urn not in OF_THE_RUNNER | OF_A_WORKER:
            found.append(f"{transform.unique_name}: Flink has no {urn}")
        if urn == "beam:transform:pardo:v1":
            payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
            if payload.restriction_coder_id:
                found.append(f"{transform.unique_name}: splittable, and so in one subtask")
        for name in transform.inputs.values():
            consumers[name].add(urn)
        produced |= set(transform.outputs.values())
    both = {"beam:transform:flatten:v1", "beam:transform:group_by_key:v1"}
    found += [
        f"{name}: into both Flatten and GroupByKey" for name, of in consumers.items() if both <= of
    ]
    sinks = len(produced - set(consumers))
    shuffles = urns["beam:transform:group_by_key:v1"] + urns["beam:transform:reshuffle:v1"]
    for what, number, most in (
        ("sources", urns["beam:transform:impulse:v1"], MOST_SOURCES),
        ("sinks", sinks, MOST_SINKS),
        ("shuffles", shuffles, MOST_SHUFFLES),
    ):
        if number > most:
            found.append(f"{number} {what}, {most} are enough")
    return found


def proto_of(pipeline: beam.Pipeline) -> Pipeline:
    """What a job server would get."""
    options = PipelineOptions(environment_type="EXTERNAL", environment_config="localhost:1")
    return PortableRunner.get_proto_pipeline(pipeline, options)


@pytest.fixture
def record(monkeypatch) -> tuple[dict[str, Pipeline], list[int]]:
    """Every pipeline that is run, by its stage, and the bytes of each record that is shuffled."""
    pipelines, sizes = {}, []
    run, append = launch.run_pipeline, GroupingBuffer.append

    def run_and_record(build, beam_args, label, hints=()):
        def build_and_record(pipeline):
            build(pipeline)
            pipelines[label] = proto_of(pipeline)

        run(build_and_record, beam_args, label, hints)

    def append_and_measure(self, data):
        coder, stream = self._pre_grouped_coder.get_impl(), create_InputStream(data)
        while before := stream.size():
            coder.decode_from_stream(stream, True)
            sizes.append(before - stream.size())
        append(self, data)

    monkeypatch.setattr(launch, "run_pipeline", run_and_record)
    monkeypatch.setattr(GroupingBuffer, "append", append_and_measure)
    return pipelines, sizes


@pytest.mark.slow
def test_every_pipeline_is_one_for_flink(record, lexbeam, tmp_path):
    pipelines, sizes = record
    write_tiny_model(tmp_path / "model", "bert")
    out = tmp_path / "out"
    run = (
        "run", "--input", SAMPLE, "--output", out, "--model_id", tmp_path / "model",
        "--split_size", "15K", "--num_topics", "200", "--lda_execution", "distributed",
        "--lda_passes", "1", "--keep_state", "--max_seq_length", "64",
    )  # fmt: skip
    assert lexbeam(*run).code == 0
    more = tmp_path / "more.jsonl"
    more.write_text('{"id": "new", "text": "The railway has a new bridge."}\n')
    # With what the first one has kept, a second fit has stages of its own.
    again = lexbeam(*run, "--input", SAMPLE, more)
    assert again.code == 0, again.err
    assert len(list((out / "runs").iterdir())) == 2
    fit = lexbeam(
        "fit", "--input", SAMPLE, "--output", tmp_path / "fit", "--features", "lda",
        "--num_topics", "4", "--lda_execution", "local",
    )  # fmt: skip
    assert fit.code == 0, fit.err
    pretrain = lexbeam(
        "pretrain", "--input", SAMPLE, "--output", tmp_path / "pretrained", "--preset", "tiny",
        "--vocab_size", "1500", "--max_seq_length", "64", "--batch_tokens", "512",
        "--eval_fraction", "0.1", "--max_steps", "1", "--split_size", "15K",
    )  # fmt: skip
    assert pretrain.code == 0, pretrain.err
    finetune = lexbeam(
        "finetune", "--task", "embed", "--input", SAMPLE, "--output", tmp_path / "finetuned",
        "--model_id", tmp_path / "model", "--max_seq_length", "64", "--max_steps", "1",
        "--split_size", "15K",
    )  # fmt: skip
    assert finetune.code == 0, finetune.err
    classify = lexbeam(
        "run", "--input", SAMPLE, "--output", tmp_path / "classified", "--features", "tfidf",
        "--classifier", write_tiny_classifier(tmp_path / "classifier", ("a", "b")),
    )  # fmt: skip
    assert classify.code == 0, classify.err
    expected = {
        "tokenize", "duplicates", "count", "merge", "vocabulary", "bow", "lda", "encode",
        "compare", "ids", "index", "extract", "errors", "subwords", "sequences", "shuffle",
        "examples", "classify",
    }  # fmt: skip
    assert set(pipelines) == expected
    found = {stage: violations(pipeline) for stage, pipeline in pipelines.items()}
    assert not {stage: wrong for stage, wrong in found.items() if wrong}
    assert sizes
    assert max(sizes) < LARGEST_RECORD


def test_violations_are_found():
    def proto(build) -> Pipeline:
        pipeline = beam.Pipeline(runner="FnApiRunner")
        build(pipeline)
        return proto_of(pipeline)

    def both(pipeline):
        pairs = pipeline | beam.Impulse() | beam.Map(lambda _: (1, 2))
        pairs | beam.GroupByKey()
        (pairs, pairs | "Other" >> beam.Map(lambda pair: pair)) | beam.Flatten()

    def splittable(pipeline):
        pipeline | beam.io.ReadFromText(str(SAMPLE / "zh.jsonl"))

    def many(pipeline):
        for number in range(9):
            pipeline | f"Source {number}" >> beam.Impulse() | f"Map {number}" >> beam.Map(print)

    assert any("into both Flatten and GroupByKey" in text for text in violations(proto(both)))
    assert any("splittable" in text for text in violations(proto(splittable)))
    assert {"9 sources, 4 are enough", "9 sinks, 4 are enough"} <= set(violations(proto(many)))
