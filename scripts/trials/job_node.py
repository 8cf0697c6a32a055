"""Run a job on two Ray nodes of this machine, and kill one of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from scripts.launch import ROOT
from scripts.trials.background import in_background
from scripts.trials.cluster import Cluster, until
from scripts.trials.node import kill_all, own_memory, second_node
from scripts.trials.random_kills import Kill
from scripts.trials.stage import FOLDER
from serve_app.types import Json


def two_machines() -> Json:
    """Return configs/cluster.yaml for two machines without GPUs, with an engine that answers at once."""
    config: Json = yaml.safe_load((ROOT / "configs/cluster.yaml").read_text())
    config |= {"proxy_location": "HeadOnly"}  # both nodes are on this machine, which has one port 8000
    config["http_options"]["host"] = "127.0.0.1"
    (application,) = config["applications"]
    application["args"] = {"model": {"engine": "null"}}
    for deployment in application["deployments"]:
        deployment["ray_actor_options"] = {"num_cpus": 0.05}
        if "max_replicas_per_node" in deployment:
            deployment["max_replicas_per_node"] = 1
        if "autoscaling_config" in deployment:
            deployment["autoscaling_config"]["max_replicas"] = 2
            least = deployment["autoscaling_config"]["min_replicas"]
            deployment["autoscaling_config"]["min_replicas"] = min(2, least)
        elif deployment["num_replicas"] == 3:
            deployment["num_replicas"] = 2
    return config


@contextmanager
def losing_node(cluster: Cluster, killed: list[Kill]) -> Iterator[None]:
    """Add a second node with its own ``/dev/shm``. When a JobRunner works there, kill all processes of the node."""
    started_at_s = time.monotonic()

    def lose(stop: threading.Event) -> None:
        with second_node(cluster, FOLDER / "node.log", own_memory()) as node:
            there = Cluster(cluster.url, node.pid)
            (runner,) = until(lambda: there.alive("JobRunner"), what="a JobRunner on the second node")
            before_s = sum(runner.cpu_times()[:2])
            until(lambda: sum(runner.cpu_times()[:2]) > before_s + 1, what="work of the JobRunner on the second node")
            kill_all(node)
            killed.append((time.monotonic() - started_at_s, "a node"))

    with in_background(lose):
        yield
