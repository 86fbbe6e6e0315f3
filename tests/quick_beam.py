"""Beam asks the same questions of the same functions and flags anew for every pipeline; here the
answers are kept.

Two fifths of a small job's time went there. What is asked depends on nothing that changes while
tests run. Jobs in processes of their own (command line, conformance, kills) run Beam as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core

Signature = tuple[list[str], list[Any]]


def keep_answers(patch: pytest.MonkeyPatch) -> None:
    """Until the patch is undone."""
    patch.setattr(core, "get_function_args_defaults", _kept_signatures())
    patch.setattr(PipelineOptions, "view_as", _kept_views())


def _kept_signatures() -> Callable[[Any], Signature]:
    ask = core.get_function_args_defaults
    methods: WeakKeyDictionary[Any, Signature] = WeakKeyDictionary()

    def arguments_and_defaults(function: Any) -> Signature:
        if not inspect.ismethod(function):
            return ask(function)
        # Bound, a method is a new object each time.
        kept = methods.get(function.__func__)
        if kept is None:
            kept = methods[function.__func__] = ask(function)
        arguments, defaults = kept
        return list(arguments), list(defaults)

    return arguments_and_defaults


def _kept_views() -> Callable[[PipelineOptions, type[PipelineOptions]], PipelineOptions]:
    ask = PipelineOptions.view_as
    views: dict[tuple[Any, ...], PipelineOptions] = {}

    def view_as(self: PipelineOptions, cls: type[PipelineOptions]) -> PipelineOptions:
        flags = self._flags
        if flags is None:  # then those of the process, which differ
            return ask(self, cls)
        key = (cls, *flags)
        if key not in views:
            # Of options without values of their own: a view shares those that it was made from.
            views[key] = ask(PipelineOptions(list(flags)), cls)
        view, own = cls.__new__(cls), self._all_options
        # Attributes set as others are would be options.
        view.__dict__.update(views[key].__dict__, _flags=flags, _all_options=own)
        for name in view._visible_option_list():
            own.setdefault(name, getattr(view._visible_options, name))
        return view

    return view_as
