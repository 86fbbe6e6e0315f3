"""What deploy/ holds: images without a complaint, manifests of one set of settings."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from lexbeam.pipeline.flink.cluster import Cluster, problems
from lexbeam.pipeline.flink.job_options import DEFAULT_POOL
from lexbeam.pipeline.workers.command import pool_parser
from tests.conftest import ROOT

FLINK = ROOT / "deploy" / "flink"
CONFIG = yaml.safe_load((FLINK / "conf" / "config.yaml").read_text())
MANIFESTS = sorted((FLINK / "kubernetes").glob("*.yaml"))
IMAGE = ROOT / "deploy" / "Dockerfile"
COMPOSE = yaml.safe_load((FLINK / "docker-compose.yml").read_text())


def resources(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def resource(kind: str, name: str) -> dict[str, Any]:
    (found,) = [
        each
        for path in MANIFESTS
        for each in resources(path)
        if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return found


def containers(name: str) -> dict[str, dict[str, Any]]:
    pod = resource("Deployment", name)["spec"]["template"]["spec"]
    return {container["name"]: container for container in pod["containers"]}


def size_of(text: str) -> int:
    """Bytes of `6g`, `512m`, `6Gi` or `1600Mi`."""
    units = {"m": 1 << 20, "g": 1 << 30}
    return int(text.rstrip("mgiMG")) * units[text.lower().removesuffix("i")[-1]]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_knows_every_resource(path):
    version = kubernetes_validate.latest_version()
    for each in resources(path):
        kubernetes_validate.validate(each, version, strict=True)


def test_the_kustomization_names_files_that_are_there():
    kustomization = yaml.safe_load((FLINK / "kustomization.yaml").read_text())
    for name in kustomization["resources"] + kustomization["configMapGenerator"][0]["files"]:
        assert (FLINK / name).is_file()
    # A job is started by itself.
    left_out = {path.name for path in MANIFESTS} - {
        Path(name).name for name in kustomization["resources"]
    }
    assert left_out == {"job.yaml"}


def test_the_settings_are_those_that_a_job_wants():
    manager, restart = CONFIG["taskmanager"], CONFIG["restart-strategy"]
    settings = {
        "restart-strategy.type": restart["type"],
        "restart-strategy.fixed-delay.delay": restart["fixed-delay"]["delay"],
    }
    memory = manager["memory"]
    cluster = Cluster(
        version="1.19.3", slots=(manager["numberOfTaskSlots"],), free_slots=2,
        network_memory=size_of(memory["network"]["min"]),
        off_heap_memory=size_of(memory["task"]["off-heap"]["size"]), settings=settings,
    )  # fmt: skip
    assert problems(cluster) == ([], [])
    assert cluster.restart_delay == 5000


def test_each_task_manager_has_a_pool_of_its_slots_at_the_address_that_jobs_look_at():
    slots = CONFIG["taskmanager"]["numberOfTaskSlots"]
    services = COMPOSE["services"]
    commands = [containers("taskmanager")["pool"]["args"]]
    for number in (1, 2):
        pool = services[f"pool-{number}"]
        assert pool["network_mode"] == f"service:taskmanager-{number}"
        commands.append(pool["command"])
    for command in commands:
        assert command[0] == "worker-pool"
        options = pool_parser().parse_args(command[1:])
        assert options.slots == slots
        assert f"{options.host}:{options.port}" == DEFAULT_POOL


def test_containers_have_the_memory_that_flink_takes():
    wanted = size_of(CONFIG["taskmanager"]["memory"]["process"]["size"])
    limit = containers("taskmanager")["taskmanager"]["resources"]["limits"]["memory"]
    assert size_of(limit) == wanted
    for number in (1, 2):
        assert size_of(COMPOSE["services"][f"taskmanager-{number}"]["mem_limit"]) == wanted
    wanted = size_of(CONFIG["jobmanager"]["memory"]["process"]["size"])
    limit = containers("jobmanager")["jobmanager"]["resources"]["limits"]["memory"]
    assert size_of(limit) == wanted


def requirements(path: Path) -> set[str]:
    """The packages of a lock file, each with its version, whatever they depend on."""
    return {line.partition(";")[0].strip() for line in path.read_text().splitlines()}


class TestImages:
    def test_the_linter_has_nothing_to_say(self):
        files = [*ROOT.glob("deploy/Dockerfile"), *ROOT.glob("deploy/**/*.Dockerfile")]
        assert len(files) == 4
        hadolint = Path(sys.executable).with_name("hadolint")
        command = [str(hadolint), "--no-color", *map(str, files)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (found.stdout, found.returncode) == ("", 0)

    def test_the_workers_have_beam_and_python_of_the_lock(self):
        (base,) = re.findall(r"^FROM (\S+) AS cpu$", IMAGE.read_text(), re.MULTILINE)
        version = base.removeprefix("apache/beam_python3.11_sdk:")
        assert f"apache-beam=={version}" in requirements(ROOT / "requirements.lock")

    def test_the_workers_have_the_versions_of_the_lock_and_all_that_lexbeam_needs(self):
        locked = requirements(ROOT / "requirements.lock")
        image = requirements(ROOT / "deploy" / "requirements.lock")
        assert image <= locked
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]
        wanted = project["dependencies"] + extras["openvino"] + extras["gcp"] + extras["aws"]
        names = {re.match(r"[A-Za-z0-9._-]+", each)[0].lower() for each in wanted}
        held = {each.partition("==")[0] for each in image}
        assert names <= held
        assert not {"pytest", "mypy", "sentence-transformers"} & held

    @pytest.mark.parametrize("path", sorted(ROOT.glob("deploy/**/*Dockerfile")), ids=str)
    def test_what_is_copied_is_there(self, path):
        for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), re.MULTILINE):
            for name in copied.split():
                assert (ROOT / name).exists(), name
