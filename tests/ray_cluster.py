"""A Ray cluster of several nodes on this machine, on loopback: processes with resources of their own."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

from autointerp.artifacts import RunDirectory

LOOPBACK = "127.0.0.2"
"""Ray replaces 127.0.0.1 by the machine's address in its network."""
ROOT = Path(__file__).parents[1]
WHILE_PARENT_LIVES = "while kill -0 $PPID; do sleep 1; done"
"""Command that stands in for a node's agent, and ends soon after the node."""


def environment() -> dict[str, str]:
    """Environment variables that nodes and their actors need, to be set before the cluster starts."""
    return {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else actors give way to everything else on the machine.
        "RAY_worker_niceness": "0",
        # On a busy machine a node that lives may be slow to say so.
        "RAY_health_check_timeout_ms": "30000",
    }


class LocalCluster:
    """Context manager: a head without CPUs and `n_nodes` nodes of one CPU each."""

    def __init__(self, n_nodes: int = 2) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self._head = self._add(0)
        self.nodes: list[Any] = []
        for _ in range(n_nodes):
            self.add_node()

    @property
    def address(self) -> str:
        """Address of the head, `127.0.0.1:PORT`."""
        return str(self._cluster.address)

    def add_node(self) -> None:
        """One more node of one CPU."""
        self.nodes.append(self._add(1))

    def kill_node(self) -> None:
        """Kill every process of the oldest node at once, as a machine that loses its power does."""
        self._cluster.remove_node(self.nodes.pop(0), allow_graceful=False)

    def kill_all(self) -> None:
        """Kill every process of the cluster, the head's last."""
        for node in [*self.nodes, self._head]:
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        self.nodes.clear()

    def _add(self, n_cpus: int) -> Any:
        """A node; on a busy machine, one that waits 15 s for its agents' ports would give up."""
        from ray._private import services, utils

        start = services.start_ray_process

        def with_ports(command: list[str], kind: str, *arguments: Any, **keywords: Any) -> Any:
            if kind == "raylet":
                agent = subprocess.list2cmdline(["/bin/sh", "-c", WHILE_PARENT_LIVES])
                command = [c for c in command if not c.startswith("--dashboard_agent_command=")]
                command += [
                    f"--dashboard_agent_command={agent}",
                    f"--dashboard_agent_listen_port={free_port()}",
                ]
            return start(command, kind, *arguments, **keywords)

        with (
            mock.patch.object(services, "start_ray_process", with_ports),
            # Handlers of signals are set by the main thread only, and nodes are added by others too.
            mock.patch.object(utils, "set_sigterm_handler"),
        ):
            return self._cluster.add_node(
                wait=False,
                num_cpus=n_cpus,
                node_ip_address=LOOPBACK,
                object_store_memory=80_000_000,
                include_dashboard=False,
                include_log_monitor=False,
                metrics_agent_port=free_port(),
                metrics_export_port=free_port(),
                runtime_env_agent_port=free_port(),
            )

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *error: object) -> None:
        self._cluster.shutdown()


class Losses(threading.Thread):
    """Kills a node when some shards of a dataset are there, one after another; a new node comes for each.

    A node dies with the thread that started it (so Ray tells the kernel): this one lives until `finish`.
    """

    def __init__(self, cluster: LocalCluster, run: RunDirectory, datasets: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.cluster, self.run_directory, self.datasets = cluster, run, datasets
        self.in_the_middle: dict[str, bool] = {}
        """For each step, whether it was under way when a node was killed."""
        self._over = threading.Event()

    def finish(self) -> None:
        """Wait for the last loss, and let go of the nodes that came."""
        self._over.set()
        self.join(timeout=120)

    def run(self) -> None:
        for step, dataset in self.datasets.items():
            while not any((self.run_directory.root / dataset).rglob("part-*.parquet")):
                time.sleep(0.05)
            self.cluster.kill_node()
            manifest = self.run_directory.manifest(step)
            self.in_the_middle[step] = manifest is not None and manifest.status == "running"
            self.cluster.add_node()
        self._over.wait()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        return int(found.getsockname()[1])
