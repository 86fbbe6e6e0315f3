"""`lexbeam worker-pool`: its options, and what it does with them."""

from __future__ import annotations

import argparse
import ipaddress
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from lexbeam.models.config import ConfigError, require_at_least
from lexbeam.pipeline import log, options
from lexbeam.pipeline.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, UsageError

_DESCRIPTION = (
    "A pool of Beam workers on this host, for jobs with --environment_type=EXTERNAL "
    "--environment_config=HOST:PORT."
)
_SECONDS_TO_ANSWER = 5.0


def pool_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = options.Parser(
        prog="lexbeam worker-pool", description=_DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument(
        "--port", type=int, help="port to listen at; 0: any free one, see its first line"
    )
    parser.add_argument(
        "--host",
        default="localhost",
        help="address to listen at; whoever reaches it can run code here (default: localhost)",
    )
    parser.add_argument(
        "--slots",
        type=int,
        default=1,
        help="workers that share this host's cores: a runner's slots on this host (default: 1)",
    )
    parser.add_argument(
        "--log_dir", metavar="DIR", help="a file for what each worker prints, instead of stderr"
    )
    parser.add_argument(
        "--python", metavar="PATH", default=sys.executable, help="interpreter of the workers"
    )
    parser.add_argument("--log_format", choices=log.FORMATS, default="text")
    parser.add_argument(
        "--check", metavar="HOST:PORT", help="ask a pool whether it is well: exit code 0 or 1"
    )
    return parser


def run_worker_pool(arguments: Sequence[str]) -> int:
    """Run a pool until SIGTERM or Ctrl-C, or check one; returns the exit code.

    Raises ConfigError or UsageError for wrong options.
    """
    parsed = pool_parser().parse_args(options.normalise_flags(list(arguments)))
    log.set_format(parsed.log_format)
    if parsed.check is not None:
        return _check(parsed.check)
    if parsed.port is None:
        raise UsageError("--port is required")
    _check_options(parsed)
    from lexbeam.pipeline.quiet import quiet_libraries

    quiet_libraries(verbose=False)
    from lexbeam.pipeline.workers import pool

    config = pool.PoolConfig(parsed.host, parsed.port, parsed.slots, parsed.log_dir, parsed.python)
    stop, caught = threading.Event(), []

    def on_signal(number: int, _: object) -> None:
        caught.append(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    pool.serve(config, sys.stderr, stop)
    return EXIT_INTERRUPTED if signal.SIGINT in caught else EXIT_DONE


def _check_options(parsed: argparse.Namespace) -> None:
    if not 0 <= parsed.port <= 65535:
        raise ConfigError("port", parsed.port, "must be between 0 and 65535")
    require_at_least("slots", parsed.slots, 1)
    if parsed.log_dir is not None:
        try:
            Path(parsed.log_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError("log_dir", parsed.log_dir, f"cannot be made: {error}") from error
        parsed.log_dir = os.path.abspath(parsed.log_dir)
    if parsed.python != sys.executable:
        parsed.python = _usable_python(parsed.python)
    if not _is_loopback(parsed.host):
        log.write(
            "warning", "open-address",
            f"--host {parsed.host}: whoever reaches this address can run code as this user",
        )  # fmt: skip


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _usable_python(path: str) -> str:
    """The interpreter's path from the root; raises ConfigError where it lacks this Beam."""
    found = shutil.which(path)
    if found is None:
        raise ConfigError("python", path, "is no program")
    found = os.path.abspath(found)
    code = "import sys, apache_beam; print(*sys.version_info[:2], apache_beam.__version__)"
    result = subprocess.run([found, "-P", "-c", code], capture_output=True, text=True, check=False)
    if result.returncode:
        raise ConfigError("python", path, f"has no Beam: {result.stderr.strip().splitlines()[-1]}")
    import apache_beam

    here = f"{sys.version_info[0]} {sys.version_info[1]} {apache_beam.__version__}"
    there = result.stdout.strip()
    if there != here:
        raise ConfigError("python", path, f"Python and Beam {there} there, {here} here")
    return found


def _check(address: str) -> int:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_SECONDS_TO_ANSWER)
        except grpc.RpcError as error:
            return log.complain(f"{address}: {error.details()}", EXIT_FAILED)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return log.complain(f"{address}: the pool is ending", EXIT_FAILED)
    print(f"{address}: well")
    return EXIT_DONE
