"""Beam's job server, which translates pipelines for Flink: one for all pipelines of a job."""

from __future__ import annotations

import os
import shutil
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
)
from apache_beam.runners.portability.flink_runner import FlinkJarJobServer
from apache_beam.runners.portability.job_server import JobServer
from apache_beam.runners.portability.portable_runner import PortableRunner

from lexbeam.models.config import ConfigError
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.flink.cluster import Cluster
from lexbeam.pipeline.flink.rest import FlinkRest

JAR = "LEXBEAM_FLINK_JOB_SERVER_JAR"
_JAR_OPTION = "flink_job_server_jar"


def set_job_server(options: PipelineOptions, rest: FlinkRest, cluster: Cluster) -> None:
    """Complete the options of a job server: cluster, jar.

    The jar is that of --flink_job_server_jar, or of the environment variable JAR, or the one that
    Beam has released for the cluster's version of Flink, which Beam fetches and keeps.

    Raises ConfigError where there is none, or nothing to run it with.
    """
    flink = options.view_as(FlinkRunnerOptions)
    flink.flink_master = rest.url
    if options.view_as(PortableOptions).job_endpoint:
        return
    jar = flink.flink_job_server_jar = flink.flink_job_server_jar or os.environ.get(JAR)
    if jar and "://" not in jar and not os.path.isfile(jar):
        raise ConfigError(_JAR_OPTION, jar, "is no file")
    if not jar:
        version = ".".join(cluster.version.split(".")[:2])
        known = FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
        if version not in known:
            reason = f"runs Flink {cluster.version}, for which Beam has no job server: it has them"
            raise ConfigError("flink_master", rest.url, f"{reason} for {', '.join(known)}")
        flink.flink_version = version
    java = options.view_as(JobServerOptions).job_server_java_launcher
    if not shutil.which(java):
        reason = "is no program: Beam's job server for Flink needs Java, 11 or newer"
        raise ConfigError("job_server_java_launcher", java, reason)


class SharedJobServer(JobServer):  # type: ignore[misc]
    """A job server that is started with the first pipeline, and goes on until it is closed."""

    def __init__(self, options: PipelineOptions) -> None:
        self._server = FlinkJarJobServer(options)
        self._stub: Any = None

    def start(self) -> Any:
        """The stub of its job service; raises JobError where it does not come up."""
        if self._stub is None:
            try:
                self._stub = self._server.start()
            except Exception as error:
                raise JobError(
                    f"Beam's job server for Flink does not start: {error}; --{_JAR_OPTION} names "
                    "its jar, and --verbose shows what it says"
                ) from error
        return self._stub

    def stop(self) -> None:
        """Nothing: the next pipeline needs it as well."""

    def close(self) -> None:
        """End the process."""
        if self._server._server is not None:
            self._server.stop()


class SharedServerRunner(PortableRunner):  # type: ignore[misc]
    """Submits pipelines to a job server that is there already."""

    def __init__(self, server: JobServer) -> None:
        super().__init__()
        self._shared = server

    def default_job_server(self, options: PipelineOptions) -> JobServer:
        """The one of this job."""
        return self._shared
