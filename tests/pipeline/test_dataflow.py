"""Jobs for Dataflow, as far as no service is needed: options, names, graphs, the template."""

from __future__ import annotations

import json
import sys

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from google.cloud import dataflow

from lexbeam.models.config import ConfigError
from lexbeam.pipeline import job_command, launch, options
from lexbeam.pipeline.beam_arguments import partition, values_of
from lexbeam.pipeline.dataflow import job_options, template
from lexbeam.pipeline.errors import UsageError
from lexbeam.transforms.run_command import RunCommand
from tests.conftest import ROOT
from tests.pipeline.conftest import only_run
from tests.pipeline.test_stages import MAP_STAGES
from tests.pipeline.test_stages import work as work

METADATA = ROOT / "deploy" / "dataflow" / "metadata.json"
DATAFLOW = (
    "--runner=DataflowRunner", "--project=test-project", "--region=us-central1",
    "--temp_location=gs://bucket/tmp", "--sdk_container_image=host/lexbeam:1",
)  # fmt: skip
JOB = ("--input=gs://bucket/in/*.jsonl", "--output=gs://bucket/out")


def without(name: str) -> list[str]:
    return partition(DATAFLOW, (name,))[1]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ((*JOB, *without("project")), "project"),
        ((*JOB, *without("region")), "region"),
        ((*JOB, *without("temp_location")), "temp_location"),
        ((*JOB, *without("sdk_container_image")), "sdk_container_image"),
        ((*JOB, *without("temp_location"), "--temp_location=tmp"), "temp_location"),
        ((*JOB, *DATAFLOW, "--staging_location=/tmp"), "staging_location"),
        ((*JOB, *DATAFLOW, "--dry_run=True"), "dry_run"),
        (("--input=in.jsonl", JOB[1], *DATAFLOW), "input"),
        ((JOB[0], "--output=out", *DATAFLOW), "output"),
        ((*JOB, *DATAFLOW, "--gpu_type=NVIDIA L4"), "gpu_type"),
        ((*JOB, "--gpu_type=nvidia-l4"), "gpu_type"),
    ],
)
def test_what_cannot_go_well_is_found_before_anything_is_launched(
    lexbeam, monkeypatch, arguments, option
):
    monkeypatch.delenv("CLOUDSDK_COMPUTE_REGION", raising=False)
    result = lexbeam("run", *arguments)
    assert result.code == 2
    assert f"--{option}" in result.err


def test_a_local_model_cannot_be_reached(lexbeam, tmp_path):
    result = lexbeam("transform", *JOB, "--model", tmp_path, *DATAFLOW)
    assert result.code == 2
    assert "--model" in result.err


def test_only_what_was_not_given_is_chosen():
    def chosen(*given: str) -> list[str]:
        return job_options.completed(given, "name", ["min_ram=1GB"])[len(given) :]

    assert chosen() == [
        "--job_name=name", "--resource_hint=min_ram=1GB",
        "--experiments=no_use_multiple_sdk_containers", "--number_of_worker_harness_threads=2",
    ]  # fmt: skip
    many = ("--experiments=a,use_multiple_sdk_containers", "--number_of_worker_harness_threads=9")
    assert chosen(*many) == ["--job_name=name", "--resource_hint=min_ram=1GB"]
    others = chosen("--experiment", "shuffle_mode=service")
    assert "--experiments=no_use_multiple_sdk_containers" in others


def test_a_job_has_a_name_of_its_run_and_stage():
    def name(stage: str, path: str, run_id: str, *beam_args: str) -> str:
        return job_options.job_name(beam_args, stage, path, run_id)

    first = name("tokenize", "gs://b/out/runs/A_b.C", "A_b.C")
    assert first.startswith("lexbeam-tokenize-")
    assert first.endswith("-a-b-c")
    assert first == name("tokenize", "gs://b/out/runs/A_b.C", "A_b.C")
    assert first != name("tokenize", "gs://b/other/runs/A_b.C", "A_b.C")
    assert len(name("tokenize", "gs://b/o", "x" * 128)) == 63
    assert name("bow", "gs://b/o", "r", "--job_name=nightly").startswith("nightly-bow-")
    with pytest.raises(ConfigError, match="--job_name"):
        name("bow", "gs://b/o", "r", "--job_name=1")


def dry_run(build, *more: str) -> dataflow.Job:
    """What would be sent, with the graph."""
    launch_options = launch.pipeline_options(
        [*job_options.completed(DATAFLOW, "name", more), "--dry_run=True", "--no_auth"]
    )
    pipeline = beam.Pipeline(options=launch_options)
    build(pipeline)
    return pipeline.run().job


@pytest.mark.parametrize("name", MAP_STAGES)
def test_a_dry_run_takes_every_stage_in_one_environment(work, name):
    (build,) = MAP_STAGES[name](work).pipelines()
    settings = options.RunSettings(
        "gs://bucket/out", gpu_type="nvidia-l4", worker_ram=16 << 30, beam_args=DATAFLOW
    )
    graph = dry_run(build, *settings.encoder_hints()).proto_pipeline
    # Of any number of splits: 1,000 here.
    assert len(graph.SerializeToString()) < 100_000
    used = {
        transform.environment_id
        for transform in graph.components.transforms.values()
        if transform.environment_id
    }
    (environment,) = (graph.components.environments[each] for each in used)
    payload = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
    assert payload.container_image == "host/lexbeam:1"
    assert {name: value.decode() for name, value in environment.resource_hints.items()} == {
        "beam:resources:accelerator:v1": "type:nvidia-l4;count:1;install-nvidia-driver",
        "beam:resources:min_ram_bytes:v1": str(16 << 30),
    }


def test_a_whole_hint_is_taken_as_it_is():
    hint = "type:nvidia-l4;count:1;machine_type:g2-standard-4;install-nvidia-driver"
    settings = options.RunSettings("gs://b/o", gpu_type=hint, beam_args=DATAFLOW)
    assert settings.encoder_hints() == (f"accelerator={hint}",)


class TestTemplate:
    PARAMETERS = (
        *JOB, *DATAFLOW, "--num_topics=7", "--job_name=lexbeam-1", "--max_num_workers=30",
        "--machine_type=n2-standard-16", "--template_location=gs://bucket/staging/template_launches/1",
        "--labels={\"a\": \"b\"}",
    )  # fmt: skip

    def test_its_description_is_one_that_google_takes(self):
        metadata = dataflow.TemplateMetadata.from_json(METADATA.read_text())
        assert metadata.name == "lexbeam"
        for parameter in metadata.parameters:
            assert parameter.label
            assert parameter.help_text

    def test_every_parameter_is_an_option(self):
        parser = job_command.job_parser("transform")
        known = {action.dest for action in parser._actions} | options.known_beam_flags()
        names = {parameter["name"] for parameter in json.loads(METADATA.read_text())["parameters"]}
        assert names - {"command"} <= known

    def test_the_driver_gets_the_parameters_and_its_job_the_rest(self):
        command_line, beam_args = template.command_lines(self.PARAMETERS)
        assert command_line[0] == "run"
        assert {*JOB, *DATAFLOW, "--num_topics=7", "--run_id=lexbeam-1"} <= set(command_line)
        # The jobs that it submits have names and workers of their own.
        for name in ("job_name", "template_location", "labels"):
            assert not values_of(command_line, name)
            assert values_of(beam_args, name)
        assert values_of(command_line, "machine_type") == ["n2-standard-16"]

    @pytest.mark.parametrize(
        ("more", "error"),
        [
            ("--command=evaluate", UsageError),
            ("--num_topics=0", ConfigError),
            ("--colour=red", UsageError),
            ("--output=out", ConfigError),
        ],
    )
    def test_wrong_parameters_launch_nothing(self, more, error):
        name = more[2:].partition("=")[0]
        parameters = [*partition(self.PARAMETERS, (name,))[1], more]
        with pytest.raises(error, match=name):
            template.command_lines(parameters)

    def test_the_launch_makes_a_job_of_one_worker_that_drives(self, monkeypatch):
        launched, commands = [], []
        quiet = lambda *_: None  # noqa: E731 - Beam asks the bucket whether it deletes softly
        monkeypatch.setattr(GoogleCloudOptions, "_warn_if_soft_delete_policy_enabled", quiet)
        monkeypatch.setattr(beam.Pipeline, "run", lambda pipeline: launched.append(pipeline))
        monkeypatch.setattr(
            template, "RunCommand", lambda command: commands.append(command) or beam.Impulse()
        )
        template.main(self.PARAMETERS)
        (pipeline,), (command,) = launched, commands
        workers = pipeline.options.get_all_options()
        assert (workers["num_workers"], workers["max_num_workers"]) == (1, 1)
        assert workers["machine_type"] == "e2-standard-4"
        assert workers["template_location"].endswith("template_launches/1")
        assert command[1:4] == ["-m", "lexbeam.pipeline.cli", "run"]

    @pytest.mark.slow
    def test_what_it_drives_is_a_whole_job(self, tmp_path):
        arguments = [
            "run", "--input", str(ROOT / "examples" / "corpus"), "--output", str(tmp_path),
            "--features", "tfidf",
        ]  # fmt: skip
        with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([])) as pipeline:
            command = [sys.executable, "-m", "lexbeam.pipeline.cli", *arguments]
            _ = pipeline | RunCommand(command)
        assert (only_run(tmp_path) / "_SUCCESS").exists()

    def test_a_driver_that_fails_is_an_error_with_its_last_line(self):
        pipeline = beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([]))
        _ = pipeline | RunCommand(
            [sys.executable, "-c", "print('all is lost'); raise SystemExit(3)"]
        )
        with pytest.raises(RuntimeError, match="exit code 3, and last of all: all is lost"):
            pipeline.run()
