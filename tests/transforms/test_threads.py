"""Threads that work ahead: order, errors, what is held; and the DoFn that uses them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from lexbeam.transforms import blocks, map_blocks, threads
from lexbeam.transforms.map_blocks import MapBlocksDoFn
from lexbeam.transforms.threads import OrderedThreads

SCHEMA = pa.schema([("number", pa.int64())])


def slow_square(number: int) -> int:
    # Early items take longest.
    time.sleep(max(0, 5 - number) / 100)
    return number * number


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(num_threads: int) -> None:
    pool = OrderedThreads(slow_square, num_threads)
    found = [result for number in range(20) for result in pool.put(number)]
    found += pool.rest()
    pool.close()
    assert found == [number * number for number in range(20)]


def test_map_in_order_stops_its_threads_when_it_is_left() -> None:
    before = threading.active_count()
    results = threads.map_in_order(slow_square, range(10), 3)
    assert next(results) == 0
    results.close()
    assert threading.active_count() == before
    assert list(threads.map_in_order(slow_square, range(10), 3)) == [n * n for n in range(10)]


def test_items_are_worked_on_side_by_side() -> None:
    both = threading.Barrier(2, timeout=30)
    pool = OrderedThreads(lambda number: both.wait() >= 0, 2)
    found = [result for number in range(4) for result in pool.put(number)]
    assert found + list(pool.rest()) == [True] * 4
    pool.close()


def test_few_items_are_held() -> None:
    may_end = threading.Event()
    started: list[int] = []

    def wait(number: int) -> int:
        started.append(number)
        assert may_end.wait(30)
        return number

    pool = OrderedThreads(wait, 2)
    assert [list(pool.put(number)) for number in range(3)] == [[], [], []]
    threading.Timer(0.05, may_end.set).start()
    # The fourth one has to wait for the first.
    assert next(iter(pool.put(3))) == 0
    pool.close()
    assert len(started) <= 4


@pytest.mark.parametrize("num_threads", [1, 2])
def test_an_error_is_raised_in_its_place_and_the_rest_can_be_cleared(num_threads: int) -> None:
    def fail(number: int) -> int:
        if number == 1:
            raise ValueError(f"item {number}")
        return number

    pool = OrderedThreads(fail, num_threads)
    found = []
    results = (result for number in range(5) for result in pool.put(number))
    found.append(next(results))
    with pytest.raises(ValueError, match="item 1"):
        next(results)
    assert found == [0]
    pool.clear()
    assert list(pool.rest()) == []
    assert list(pool.put(7)) + list(pool.rest()) == [7]
    pool.close()


class SquareDoFn(MapBlocksDoFn[int]):
    """Emits (split, square) of each block, and (split, -1) at the end of a split."""

    def compute(self, block: pa.RecordBatch) -> int:
        return slow_square(block["number"][0].as_py())

    def emit(self, result: int, split: int) -> Iterable[tuple[int, int]]:
        return [(split, result)]

    def emit_last(self, split: int) -> Iterable[tuple[int, int]]:
        return [(split, -1)]


def split_of(numbers: list[int], split: int) -> list[pa.RecordBatch]:
    batches = [pa.RecordBatch.from_pylist([{"number": n}], SCHEMA) for n in numbers]
    return list(blocks.mark_split(batches, SCHEMA, split))


@pytest.mark.parametrize("num_threads", [1, 3])
def test_blocks_keep_their_order_and_their_split(
    num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_blocks, "kernel_threads", lambda: num_threads)
    do_fn = SquareDoFn()
    do_fn.setup()
    do_fn.start_bundle()
    found = [
        output
        for block in split_of([0, 1, 2, 3, 4, 5], 7) + split_of([], 8) + split_of([6], 9)
        for output in do_fn.process(block)
    ]
    do_fn.teardown()
    squares = [(7, number * number) for number in range(6)]
    assert found == [*squares, (7, -1), (8, -1), (9, 36), (9, -1)]


def test_a_bundle_that_failed_leaves_nothing_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_blocks, "kernel_threads", lambda: 2)
    do_fn = SquareDoFn()
    do_fn.setup()
    do_fn.start_bundle()
    assert list(do_fn.process(split_of([1], 7)[0])) == []
    do_fn.start_bundle()
    found = [output for block in split_of([2], 8) for output in do_fn.process(block)]
    do_fn.teardown()
    assert found == [(8, 4), (8, -1)]


def test_on_a_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_blocks, "kernel_threads", lambda: 2)
    elements = split_of([3, 1, 2], 0) + split_of([5], 1)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        found = (
            pipeline
            | beam.Create([elements], reshuffle=False)
            | beam.FlatMap(lambda listed: listed).with_output_types(pa.RecordBatch)
            | beam.ParDo(SquareDoFn()).with_output_types(tuple[int, int])
        )
        assert_that(found, equal_to([(0, 9), (0, 1), (0, 4), (0, -1), (1, 25), (1, -1)]))


def test_cores_are_divided_among_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for workers, expected in (("1", 8), ("2", 4), ("3", 2), ("100", 1)):
        monkeypatch.setenv(threads.WORKERS_PER_HOST, workers)
        assert threads.kernel_threads() == expected
