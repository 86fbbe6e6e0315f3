"""What lexbeam asks and tells a Flink that the test plays; a real one: tests/conformance."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lexbeam.pipeline import launch
from lexbeam.pipeline.beam_arguments import value_of
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.flink import job_options, watch
from lexbeam.pipeline.flink.cluster import Cluster, milliseconds, problems, read_cluster
from lexbeam.pipeline.flink.jobs import cancel_jobs, cause_of_failure, root_cause
from lexbeam.pipeline.flink.rest import FlinkError, FlinkRest
from lexbeam.pipeline.flink.session import FlinkSession
from lexbeam.pipeline.runs import RunDir
from lexbeam.pipeline.workers.names import is_followed_by
from tests.helpers import free_port, wait_until
from tests.pipeline.conftest import good_documents, write_jsonl

MB = 1 << 20
SETTINGS = {"restart-strategy.type": "fixed-delay", "restart-strategy.fixed-delay.delay": "5 s"}


class Flink:
    """A job manager's answers.

    Attributes:
        settings, managers, jobs: what it says.
        exceptions: of its jobs.
        cancelled: ids of the jobs that it was asked to cancel.
    """

    def __init__(self) -> None:
        self.settings = dict(SETTINGS)
        self.managers = [self.manager(), self.manager()]
        self.jobs: list[dict[str, Any]] = []
        self.exceptions: list[str] = []
        self.cancelled: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def manager(slots: int = 2, network: int = 1024, off_heap: int = 2048) -> dict[str, Any]:
        memory = {"networkMemory": network * MB, "taskOffHeap": off_heap * MB}
        return {"slotsNumber": slots, "freeSlots": slots, "memoryConfiguration": memory}

    def add_job(self, name: str, state: str = "RUNNING") -> dict[str, Any]:
        tasks = {"finished": 1, "total": 4, "running": 3}
        vertex = {"name": "MapPartition", "status": state, "tasks": {"RUNNING": 2}, "metrics": {}}
        job = {"jid": f"{len(self.jobs):032x}", "name": name, "state": state, "tasks": tasks}
        job["start-time"] = len(self.jobs)
        self.jobs.append(job | {"vertices": [vertex]})
        return self.jobs[-1]

    def answer(self, path: str) -> Any:
        if path == "/overview":
            return {"flink-version": "1.19.3"}
        if path == "/taskmanagers":
            return {"taskmanagers": self.managers}
        if path == "/jobmanager/config":
            return [{"key": key, "value": value} for key, value in self.settings.items()]
        if path == "/jobs/overview":
            return {"jobs": self.jobs}
        if path.endswith("/exceptions"):
            entries = [{"stacktrace": text} for text in self.exceptions]
            return {"exceptionHistory": {"entries": entries}}
        return next((job for job in self.jobs if path == f"/jobs/{job['jid']}"), None)

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)
        for job in self.jobs:
            if job["jid"] == job_id:
                job["state"] = "CANCELED"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        flink = self

        class Handler(BaseHTTPRequestHandler):
            def reply(self, answer: Any) -> None:
                body = json.dumps(answer).encode()
                self.send_response(404 if answer is None else 200)
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.reply(flink.answer(self.path))

            def do_PATCH(self) -> None:
                flink.cancel(self.path.removeprefix("/jobs/").removesuffix("?mode=cancel"))
                self.reply({})

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def flink() -> Iterator[Flink]:
    playing = Flink()
    yield playing
    playing.server.shutdown()
    playing.server.server_close()


@pytest.fixture
def rest(flink) -> FlinkRest:
    return FlinkRest(flink.address)


class TestCluster:
    def test_is_read(self, rest):
        cluster = read_cluster(rest)
        assert (cluster.version, cluster.slots, cluster.free_slots) == ("1.19.3", (2, 2), 4)
        assert cluster.restart_delay == 5000
        assert problems(cluster) == ([], [])

    @pytest.mark.parametrize(
        ("manager", "settings", "said"),
        [
            ({"network": 205}, SETTINGS, "205 MB for its network buffers"),
            ({"off_heap": 0}, SETTINGS, "taskmanager.memory.task.off-heap.size to 512 MB"),
            ({}, {}, "set restart-strategy.type to fixed-delay"),
            ({}, {"restart-strategy": "off"}, "set restart-strategy.type to fixed-delay"),
        ],
    )
    def test_what_endangers_a_job_is_named(self, flink, rest, manager, settings, said):
        flink.managers = [Flink.manager(**manager)]
        flink.settings = settings
        errors, warnings = problems(read_cluster(rest))
        assert errors == []
        assert [said in text for text in warnings] == [True]

    def test_one_without_slots_is_an_error(self, flink, rest):
        flink.managers = []
        assert problems(read_cluster(rest))[0] == ["has no task managers"]
        flink.managers = [Flink.manager(slots=0)]
        assert "taskmanager.numberOfTaskSlots" in problems(read_cluster(rest))[0][0]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("5 s", 5000), ("500ms", 500), ("1 min", 60_000), ("PT7S", 7000), ("250", 250),
            ("2 hours", 7_200_000), (None, 1), ("soon", 1), ("5 parsecs", 1),
        ],
    )  # fmt: skip
    def test_durations(self, text, expected):
        assert milliseconds(text, 1) == expected

    def test_errors_name_the_address(self, rest, flink):
        with pytest.raises(FlinkError, match=f"{flink.address}/jobs/nothing: 404"):
            rest.job("nothing")
        nobody = f"127.0.0.1:{free_port()}"
        with pytest.raises(FlinkError, match=f"http://{nobody}/overview: .*refused"):
            FlinkRest(nobody).overview()


def cluster(slots: tuple[int, ...] = (2, 2), free: int = 4, delay: str = "5 s") -> Cluster:
    settings = SETTINGS | {"restart-strategy.fixed-delay.delay": delay}
    return Cluster("1.19.3", slots, free, 1 << 30, 1 << 30, settings)


class TestOptions:
    def test_what_nobody_gave_is_chosen(self):
        chosen = job_options.completed(["--runner=FlinkRunner"], cluster())
        values = {name: value_of(chosen, name) for name in (
            "parallelism", "sdk_worker_parallelism", "environment_cache_millis",
            "environment_type", "environment_config",
        )}  # fmt: skip
        assert values == {
            "parallelism": "4", "sdk_worker_parallelism": "2", "environment_cache_millis": "3000",
            "environment_type": "EXTERNAL", "environment_config": "localhost:50000",
        }  # fmt: skip

    def test_what_was_given_stays(self):
        given = ["--parallelism", "1", "--environment_type=PROCESS", "--environment_config={}"]
        chosen = job_options.completed(given, cluster())
        assert chosen[: len(given)] == given
        assert value_of(chosen, "parallelism") == "1"
        assert value_of(job_options.completed(given[:3], cluster()), "environment_config") is None

    def test_workers_are_gone_before_the_next_attempt(self):
        for delay, expected in (("2 s", 1200), ("1 min", 3000), ("10 ms", 6)):
            assert job_options.cache_millis(cluster(delay=delay)) == expected
        kept = ["--environment_cache_millis", "5000"]
        (warning,) = job_options.check_options(kept, cluster())
        assert "not below the cluster's restart delay of 5000 ms" in warning
        assert job_options.check_options(["--environment_cache_millis=4999"], cluster()) == []

    def test_of_a_busy_cluster_the_free_slots_are_used(self):
        assert job_options.parallelism(cluster(free=1)) == 1
        assert job_options.parallelism(cluster(free=0)) == 4

    @pytest.mark.parametrize(
        ("arguments", "master"),
        [
            (["--runner", "FlinkRunner", "--flink_master=host:1"], "host:1"),
            (["--runner=flink", "--flink_master", "http://host:1"], "http://host:1"),
            (["--runner=FlinkRunner"], None),
            (["--runner=FlinkRunner", "--flink_master=[local]"], None),
            (["--runner=PortableRunner", "--flink_master=host:1"], None),
        ],
    )
    def test_which_cluster(self, arguments, master):
        assert job_options.master_of(arguments) == master


class TestCommand:
    @pytest.fixture
    def run(self, flink, lexbeam, tmp_path, monkeypatch) -> Callable[..., Any]:
        """`run(*options)`: the command on the cluster, which is to fail before it begins."""
        jar = tmp_path / "job-server.jar"
        jar.touch()
        monkeypatch.setenv("LEXBEAM_FLINK_JOB_SERVER_JAR", str(jar))
        source = write_jsonl(tmp_path / "in.jsonl", good_documents())

        def work(*options: str) -> Any:
            command = (
                "run",
                "--input",
                source,
                "--output",
                tmp_path / "out",
                "--features",
                "tfidf",
            )
            result = lexbeam(*command, "--runner", "FlinkRunner", *options)
            assert result.code == 2
            assert not (tmp_path / "out").exists()
            return result

        return work

    def test_a_cluster_that_does_not_answer(self, run):
        nobody = f"127.0.0.1:{free_port()}"
        said = run("--flink_master", nobody).err
        assert f"--flink_master '{nobody}': no Flink answers there" in said

    def test_a_cluster_without_task_managers(self, run, flink):
        flink.managers = []
        assert "has no task managers" in run("--flink_master", flink.address).err

    def test_more_parallelism_than_slots(self, run, flink):
        said = run("--flink_master", flink.address, "--parallelism", "9").err
        assert "--parallelism '9': the cluster has 4 slots" in said

    def test_settings_are_warned_of(self, run, flink):
        flink.settings = {}
        said = run("--flink_master", flink.address, "--job_server_java_launcher", "no-java").err
        assert "lexbeam: warning: Flink at" in said
        assert "restart-strategy.type" in said
        assert "--job_server_java_launcher 'no-java': is no program" in said

    def test_a_jar_that_is_not_there(self, run, flink):
        said = run("--flink_master", flink.address, "--flink_job_server_jar", "nothing.jar").err
        assert "--flink_job_server_jar 'nothing.jar': is no file" in said

    def test_a_version_without_a_job_server(self, run, flink, monkeypatch):
        monkeypatch.delenv("LEXBEAM_FLINK_JOB_SERVER_JAR")
        answer = flink.answer
        old = {"flink-version": "1.12.0"}
        monkeypatch.setattr(flink, "answer", lambda p: old if p == "/overview" else answer(p))
        assert (
            "runs Flink 1.12.0, for which Beam has no" in run("--flink_master", flink.address).err
        )


class TestJobs:
    def test_are_cancelled_by_the_end_of_their_name(self, flink, rest):
        flink.add_job("lexbeam-count--1234-night")
        flink.add_job("lexbeam-count--1234-night", "FINISHED")
        flink.add_job("lexbeam-count--9999-night")
        cancel_jobs(rest, "--1234-night")
        assert flink.cancelled == [flink.jobs[0]["jid"]]

    def test_one_that_goes_on_is_an_error(self, flink, rest, monkeypatch):
        monkeypatch.setattr("lexbeam.pipeline.flink.jobs._SECONDS_TO_CANCEL", 0.3)
        monkeypatch.setattr(flink, "cancel", lambda job_id: None)
        flink.add_job("lexbeam-count--1234-night")
        with pytest.raises(FlinkError, match="still go on"):
            cancel_jobs(rest, "--1234-night")

    def test_a_dead_drivers_job_is_cancelled_before_anything_is_submitted(
        self, flink, tmp_path, capsys
    ):
        run = RunDir(str(tmp_path), "night")
        options = ["--runner=FlinkRunner", f"--flink_master={flink.address}"]
        session = FlinkSession(options, run)
        flink.add_job(f"lexbeam-count{session._identity}")
        flink.managers = []
        with pytest.raises(JobError, match="has no task managers"):
            session.run(lambda pipeline: None, "count")
        assert flink.cancelled == [flink.jobs[0]["jid"]]
        assert "cancelling 1 job of this run, whose driver has died" in capsys.readouterr().err

    @pytest.fixture
    def submit(self, flink, tmp_path, monkeypatch) -> Callable[..., None]:
        """`submit(error, state, said)`: a pipeline that ends so, with what Flink says of it."""

        def run(error: BaseException, state: str, said: str = "") -> None:
            options = [
                "--runner=FlinkRunner", f"--flink_master={flink.address}",
                f"--flink_job_server_jar={__file__}",
                f"--job_server_java_launcher={sys.executable}",
            ]  # fmt: skip
            session = FlinkSession(options, RunDir(str(tmp_path), "night"))
            flink.exceptions = [said] if said else []

            def fail(*_: object) -> None:
                flink.add_job(f"lexbeam-count{session._identity}", state)
                raise error

            monkeypatch.setattr(launch, "run_with", fail)
            session.run(lambda pipeline: None, "count")

        return run

    def test_of_which_the_driver_ends_are_cancelled(self, flink, submit):
        with pytest.raises(KeyboardInterrupt):
            submit(KeyboardInterrupt(), "RUNNING")
        assert flink.cancelled == [flink.jobs[0]["jid"]]

    def test_that_fail_say_why(self, submit):
        with pytest.raises(JobError, match=r"failed: b.Worse: y\nwhat was finished is kept"):
            submit(RuntimeError("job 7 failed"), "FAILED", "a.Failed: x\nCaused by: b.Worse: y")
        with pytest.raises(JobError, match="failed: nobody knows"):
            submit(RuntimeError("nobody knows"), "FAILED")

    def test_a_change_of_the_input_stays_what_it_is(self, submit):
        said = "Traceback (most recent call last):\n  at x\nlexbeam.SourceChanged: in.jsonl"
        with pytest.raises(RuntimeError, match=r"SourceChanged: in\.jsonl") as raised:
            submit(RuntimeError("job 7 failed"), "FAILED", said)
        assert not isinstance(raised.value, JobError)

    def test_their_root_cause_is_the_last_one(self):
        trace = (
            "a.Failed: x\n\tat a.b\nCaused by: b.Worse: y\n\tat c\nCaused by: c.Worst: z\n\tat d"
        )
        assert root_cause(trace) == "c.Worst: z"
        assert root_cause("a.Failed: x\n\tat a.b") == "a.Failed: x"
        assert root_cause("") == ""

    def test_a_workers_error_is_the_cause(self, flink, rest):
        trace = (
            "java.lang.Exception: x\n\tat a.b\nCaused by: java.lang.RuntimeException: Error "
            "received from SDK harness for instruction 5: Traceback (most recent call last):\n"
            '  File "/x.py", line 9, in process\n    raise ValueError(1)\n'
            "ValueError: 7 is odd [while running 'Count']\n\n\tat c.d\n\t... 1 more\n"
        )
        assert root_cause(trace) == "ValueError: 7 is odd [while running 'Count']"
        flink.add_job("lexbeam-count--1", "FAILED")
        assert cause_of_failure(rest, "lexbeam-count--1") is None
        flink.exceptions = [trace]
        assert "7 is odd" in (cause_of_failure(rest, "lexbeam-count--1") or "")
        assert cause_of_failure(rest, "lexbeam-count--2") is None

    def test_of_a_run_follow_each_other(self):
        assert is_followed_by("lexbeam-count--1234-night", "lexbeam-bow--1234-night")
        assert not is_followed_by("lexbeam-count--1234-night", "lexbeam-count--1234-night")
        assert not is_followed_by("lexbeam-count--1234-night", "lexbeam-bow--9999-night")
        assert not is_followed_by("", "lexbeam-bow--9999-night")
        assert not is_followed_by("one", "two")


class TestWatch:
    @pytest.fixture
    def look(
        self, rest, monkeypatch
    ) -> Iterator[Callable[..., tuple[watch.FlinkWatch, list[str]]]]:
        """`look(num_committed)`: a watch that looks often, and what it warns of."""
        monkeypatch.setattr(watch, "_SECONDS_BETWEEN_LOOKS", 0.02)
        monkeypatch.setattr(watch, "SECONDS_OF_SILENCE", 0.3)
        begun = []

        def begin(num_committed: Callable[[], int]) -> tuple[watch.FlinkWatch, list[str]]:
            said: list[str] = []
            begun.append(watch.FlinkWatch(rest, "lexbeam-bow--1", num_committed, said.append))
            begun[-1].start()
            return begun[-1], said

        yield begin
        for each in begun:
            each.close()

    def test_says_how_far_the_job_is(self, flink, look):
        old = flink.add_job("lexbeam-bow--1", "FAILED")
        watching, _ = look(lambda: 0)
        time.sleep(0.1)
        assert watching.note == "Flink: not yet there"
        flink.add_job("lexbeam-bow--1")
        wait_until(lambda: watching.note == "Flink: 1 of 4 tasks", 10)
        flink.jobs[-1]["state"] = "RESTARTING"
        wait_until(lambda: watching.note == "Flink: 1 of 4 tasks, restarting", 10)
        assert old["state"] == "FAILED"

    def test_says_why_it_is_tried_again_once(self, flink, look):
        flink.add_job("lexbeam-bow--1")
        flink.exceptions = ["a.Failed: x\nCaused by: b.Lost: worker 1-1"]
        _, said = look(lambda: 0)
        wait_until(lambda: said, 10)
        time.sleep(0.1)
        assert said[0] == "Flink tries again after: b.Lost: worker 1-1"
        assert sum("tries again" in text for text in said) == 1

    def test_reports_a_job_that_makes_no_progress(self, flink, look):
        flink.add_job("lexbeam-bow--1")
        _, said = look(lambda: 7)
        wait_until(lambda: said, 10)
        assert "no progress for 0 s of Flink job lexbeam-bow--1: state RUNNING" in said[0]
        assert "at 'MapPartition' (2 RUNNING)" in said[0]

    def test_of_which_files_come_is_no_such_job(self, flink, look):
        flink.add_job("lexbeam-bow--1")
        committed = iter(range(10**9))
        _, said = look(lambda: next(committed))
        time.sleep(1.0)
        assert said == []

    def test_reports_that_nobody_answers(self, flink, look):
        watching, said = look(lambda: 7)
        flink.server.shutdown()
        flink.server.server_close()
        wait_until(lambda: any("does not answer" in text for text in said), 30)
        assert watching.note == "Flink: no answer"
