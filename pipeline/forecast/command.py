"""`lexbeam plan`: measures a sample of the input, and foretells the job of any size."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lexbeam.models.config import ConfigError, require_at_least
from lexbeam.pipeline import options
from lexbeam.pipeline.errors import JobError, UsageError

if TYPE_CHECKING:
    from lexbeam.pipeline.forecast.laws import Scale
    from lexbeam.pipeline.forecast.sample import Sample
    from lexbeam.pipeline.forecast.view import Report
    from lexbeam.pipeline.plan import Plan
    from lexbeam.transforms.splits import Layout

# The samples' shares of the largest one: small enough for what is fixed to show.
_SHARES = (1 / 16, 1 / 4, 1)
_WARM_UP_DOCUMENTS = 64
_ENCODER_SECONDS = 20.0
# What a pipeline takes on a Flink cluster before it does anything: 8 to 14 s.
_CLUSTER_STAGE_SECONDS = 10.0


def plan_parser() -> argparse.ArgumentParser:
    """The parser; holds only the options that were given."""
    parser = options.Parser(
        prog="lexbeam plan",
        description="Foretell what 'lexbeam run' would take with these options, from a sample of "
        "the input that is measured on this machine.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    options.add_input_options(parser)
    options.add_corpus_options(parser)
    options.add_feature_options(parser)
    options.add_device_options(parser)
    group = parser.add_argument_group("the forecast")
    add = group.add_argument
    add(
        "--docs",
        type=_whole_number,
        metavar="N",
        help="of a corpus of N documents like these, as 1e9 (default: of the input as it is)",
    )
    add("--workers", type=int, metavar="N", help="workers like this machine (default: 1)")
    add(
        "--stage_seconds",
        type=float,
        metavar="S",
        help="what the runner takes for a pipeline, whatever it does (default: 0 for one worker, "
        f"{_CLUSTER_STAGE_SECONDS:g} for more, as on Flink; Dataflow takes minutes)",
    )
    options.add_work_options(group)
    add("--json", metavar="FILE", help="write the forecast there too")
    add("--config", metavar="FILE", help="YAML file with any of these options")
    return parser


def _whole_number(text: str) -> int:
    number = options.number(text)
    if number != int(number) or number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(number)


def run_plan(arguments: Sequence[str]) -> None:
    """Carry out the command.

    Raises:
        UsageError, ConfigError: wrong options, or an input without documents.
        JobError: the sample could not be measured.
    """
    given, beam_args = options.parse_job_options(plan_parser(), arguments)
    if beam_args:
        raise UsageError(f"{beam_args[0]}: plan measures in this machine's processes, not on Beam")
    if "gpu_type" in given:
        raise UsageError("--gpu_type: plan measures this machine's encoder, and no other")
    config = options.job_config(given)
    names = ("split_size", "lda_execution", "worker_ram")
    chosen = {name: given[name] for name in names if name in given}
    settings = options.RunSettings("sample", **chosen)
    require_at_least("workers", given.setdefault("workers", 1), 1)

    from lexbeam.pipeline.quiet import quiet_libraries, return_memory

    return_memory()
    quiet_libraries(verbose=False)
    from lexbeam.pipeline.forecast import view

    report = _report(config, settings, given)
    print("\n".join(view.report_lines(report)))
    if "json" in given:
        from lexbeam.pipeline import runs

        runs.write_json("json", given["json"], asdict(report))


def _report(
    config: options.JobConfig, settings: options.RunSettings, given: Mapping[str, Any]
) -> Report:
    """Measure, and foretell."""
    from lexbeam.models.encoder_spec import ModelError
    from lexbeam.pipeline.forecast import laws, sample, view
    from lexbeam.pipeline.lda_execution import worker_ram
    from lexbeam.pipeline.plan import resolved_config
    from lexbeam.transforms import splits

    began = time.monotonic()
    layout = splits.plan_layout(config.input, settings.split_size, [])
    drawn = sample.draw(layout)
    try:
        config, encoder = resolved_config(config, _say)
    except ModelError as error:
        raise ConfigError("model_id", config.encoder.model_id, str(error)) from error
    jobs, measured_encoder = _Measurer(config, encoder).measure(drawn)
    scale = _scale(config, settings, drawn, given)
    in_split = scale.documents / scale.splits
    forecaster = laws.Forecaster(jobs, measured_encoder, in_split, config.counts.max_terms)
    return view.Report(
        sample_documents=jobs[-1]["sizes"]["documents"],
        input_documents=drawn.num_documents,
        input_files=len(layout.sources),
        text_bytes=drawn.text_bytes,
        measured_seconds=time.monotonic() - began,
        worker_ram=worker_ram(settings),
        scale=scale,
        stages=[forecaster.forecast(stage, scale) for stage in forecaster.stages()],
        encoder=measured_encoder,
        has_lda="lda" in config.features,
    )


def _scale(
    config: options.JobConfig,
    settings: options.RunSettings,
    drawn: Sample,
    given: Mapping[str, Any],
) -> Scale:
    """The job that is asked for."""
    from lexbeam.pipeline.forecast.laws import Scale
    from lexbeam.pipeline.lda_execution import fit_bytes_of_text, worker_ram
    from lexbeam.transforms.threads import kernel_threads

    documents, workers = given.get("docs", drawn.num_documents), given["workers"]
    is_local = settings.lda_execution == "local"
    if settings.lda_execution == "auto":
        text = int(documents * drawn.text_bytes)
        is_local = fit_bytes_of_text(config, text, kernel_threads()) < worker_ram(settings) / 2
    in_split = _documents_per_split(drawn, documents, settings.split_size)
    of_runner = 0.0 if workers == 1 else _CLUSTER_STAGE_SECONDS
    return Scale(
        documents=documents,
        workers=workers,
        splits=max(1, round(documents / in_split)),
        stage_seconds=given.get("stage_seconds", of_runner),
        num_topics=config.lda.num_topics,
        passes=config.lda.passes,
        is_local=is_local,
        threads=kernel_threads(),
    )


def _documents_per_split(drawn: Sample, documents: int, split_size: str | int) -> float:
    """As the input is cut; as large files of such documents would be where it is to be larger."""
    from lexbeam.transforms.splits import AUTO_SPLIT_BYTES, MAX_AUTO_SPLITS

    found = drawn.num_documents / len(drawn.layout.splits)
    size = AUTO_SPLIT_BYTES if split_size == "auto" else int(split_size)
    if documents > drawn.num_documents:
        found = max(found, size / max(1.0, drawn.text_bytes))
    while split_size == "auto" and documents / found > MAX_AUTO_SPLITS:
        found *= 2
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


Measured = tuple[list[dict[str, Any]], dict[str, Any] | None]


class _Measurer:
    """Measures samples in processes of their own.

    Args:
        config: the job, resolved.
        encoder: its model; None where it encodes nothing.
    """

    def __init__(self, config: options.JobConfig, encoder: Any) -> None:
        self._config = config
        self._encoder = encoder

    def measure(self, drawn: Sample) -> Measured:
        """Jobs of several sizes without the encoder, and the encoder."""
        from lexbeam.pipeline.forecast.sample import SAMPLE_BYTES

        most = max(1, int(SAMPLE_BYTES / max(1.0, drawn.text_bytes)))
        large = min(drawn.num_documents, most)
        _say(f"measuring a sample of {large:,} of about {drawn.num_documents:,} documents")
        with tempfile.TemporaryDirectory(prefix="lexbeam-plan-") as folder:
            jobs: list[dict[str, Any]] = []
            # The first one compiles what has not been compiled yet, and counts for nothing.
            numbers = [max(1, int(share * large)) for share in _SHARES]
            for number in (min(large, _WARM_UP_DOCUMENTS), *numbers):
                output = str(Path(folder, str(len(jobs))))
                plan = self._text_plan(drawn.of_size(number))
                jobs.append(_measure(folder, {"what": "job", "plan": plan, "output": output}))
            encoder = None
            if self._encoder is not None:
                plan = replace(
                    self._text_plan(drawn.of_size(large)),
                    config=self._config,
                    encoder=self._encoder,
                )
                request = {"what": "encoder", "plan": plan, "seconds": _ENCODER_SECONDS}
                encoder = _measure(folder, request) | {"dimensions": self._encoder.dimensions}
        return jobs[1:], encoder

    def _text_plan(self, layout: Layout) -> Plan:
        from lexbeam.pipeline.plan import Plan, identity_of
        from lexbeam.pipeline.versions import installed_versions

        # The encoder is measured by itself: documents that it takes seconds for are many here.
        features = tuple(name for name in self._config.features if name != "bert") or ("tfidf",)
        config = replace(self._config, features=features, input=layout.config)
        return Plan(
            command="run",
            created="",
            config=config,
            layout=layout,
            encoder=None,
            model_source=None,
            lda_execution="local",
            identity=identity_of("run", config, None, None) | {"warm_start": False},
            versions=installed_versions(),
            reuse_store=True,
        )


def _measure(folder: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """What a process found that measured; raises JobError with its last words."""
    asked, found = Path(folder, "request.json"), Path(folder, "result.json")
    values = {**request, "plan": request["plan"].to_json()}
    asked.write_text(json.dumps(values), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "lexbeam.pipeline.forecast.measure"]
    command += [str(asked), str(found)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise JobError(f"the sample cannot be measured: {last}")
    return dict(json.loads(found.read_text(encoding="utf-8")))
