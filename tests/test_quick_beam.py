"""What is kept of Beam's answers is what Beam answers."""

from __future__ import annotations

import inspect
import sys

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions
from apache_beam.transforms import core

FLAGS = ["--runner=DirectRunner", "--streaming", "--requirements_file", "r.txt"]


class _Remembering(beam.DoFn):
    def process(self, element, timestamp=beam.DoFn.TimestampParam, *, more=3):
        yield element, timestamp, more


@pytest.mark.parametrize("name", ["process", "setup", "finish_bundle"])
def test_arguments_and_defaults(name):
    unbound = getattr(_Remembering, name)
    for _ in range(2):  # asked, then kept
        arguments, defaults = core.get_function_args_defaults(getattr(_Remembering(), name))
        signature = inspect.signature(unbound).parameters.values()
        positional = [each for each in signature if each.kind is each.POSITIONAL_OR_KEYWORD]
        assert arguments == [each.name for each in positional][1:]
        assert defaults == [each.default for each in positional if each.default is not each.empty]
        arguments.clear()  # the next one gets a list of its own


def test_views_have_the_flags_and_share_what_is_set():
    for _ in range(2):
        options = PipelineOptions(FLAGS)
        assert options.view_as(StandardOptions).streaming
        assert options.view_as(SetupOptions).requirements_file == "r.txt"
        options.view_as(StandardOptions).streaming = False
        assert not options.view_as(StandardOptions).streaming
        assert options.get_all_options()["streaming"] is False


def test_without_flags_a_process_has_its_own(monkeypatch: pytest.MonkeyPatch):
    for runner in ("First", "Second"):
        monkeypatch.setattr(sys, "argv", ["lexbeam", f"--runner={runner}"])
        assert PipelineOptions().view_as(StandardOptions).runner == runner
