"""Clusters whose workers joblib drives: Dask's and Ray's."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any
from urllib.parse import urlsplit

from bnfold.batch.engine import Deaths, NoWorkersError, require
from bnfold.batch.starts import Ledger
from bnfold.errors import UsageError
from bnfold.report.wording import count
from bnfold.running.environment import kind_of_machine

SECONDS_TO_CONNECT = 20


class Dask:
    """The workers of a Dask scheduler."""

    def __init__(self, address: str) -> None:
        distributed = require("distributed", "distributed")
        require("joblib", "joblib")
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        try:
            self._client = distributed.Client(address, timeout=SECONDS_TO_CONNECT)
        except (OSError, TimeoutError, ValueError) as error:
            raise UsageError(
                f"no Dask scheduler answers at {address}: {error}; start one with `dask "
                "scheduler`, and workers with `dask worker ADDRESS --nthreads 1`"
            ) from error
        try:
            self._client.wait_for_workers(1, timeout=SECONDS_TO_CONNECT)
        except TimeoutError as error:
            self.close()
            raise UsageError(
                f"the Dask scheduler at {address} has no workers; start some with `dask worker "
                f"{address} --nthreads 1`"
            ) from error
        workers = self._workers()
        self.workers = len(workers)
        hosts = [_host(worker) for worker in workers]
        self.sharers = max(hosts.count(host) for host in hosts)
        where = count(len(set(hosts)), "machine")
        self.name = f"Dask at {address}, {count(self.workers, 'worker')} on {where}"
        self.deaths: Deaths = (distributed.scheduler.KilledWorker, CancelledError)
        self.ledger = Ledger(run=secrets.token_hex(8))

    def _workers(self) -> list[str]:
        return sorted(self._client.ncores())

    def kinds(self) -> Mapping[str, Sequence[str]]:
        workers: dict[str, list[str]] = {}
        hosts: set[tuple[str, str]] = set()
        for worker, kind in sorted(self._client.run(kind_of_machine).items()):
            if (kind, _host(worker)) not in hosts:
                hosts.add((kind, _host(worker)))
                workers.setdefault(kind, []).append(worker)
        return workers

    def settings(self, places: Sequence[str] | None) -> tuple[dict[str, Any], int]:
        config: dict[str, Any] = {"backend": "dask", "client": self._client}
        if places is None:
            return config, max(1, len(self._workers()))
        return config | {"workers": list(places)}, len(places)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._client.close(timeout=5)


def _host(worker: str) -> str:
    return urlsplit(worker).hostname or worker


_CONNECT = """
import signal, sys
sys.path[:] = sys.argv[3:]
import ray
signal.alarm(int(sys.argv[1]))
ray.init(address=sys.argv[2], log_to_driver=False, logging_level=50)
"""
"""Connects to a Ray cluster, and is killed where that takes too long."""

_FEWEST = 2
"""Processors of the smallest cluster that joblib's Ray backend works on: of one it makes none."""


class Ray:
    """The processors of a Ray cluster."""

    def __init__(self, address: str | None) -> None:
        self._ray = require("ray", "ray")
        require("joblib", "joblib")
        joblib_for_ray = require("ray.util.joblib", "ray")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        _require_answer(address)
        try:
            self._ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                ignore_reinit_error=True,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"no Ray cluster answers at {address}: {error}; start one with `ray start --head`"
            ) from error
        joblib_for_ray.register_ray()
        nodes = self._nodes()
        self.workers, self.sharers = self._processors(), max(nodes.values(), default=0)
        if self.workers < _FEWEST:
            self.close()
            raise UsageError(
                f"the Ray cluster has {count(self.workers, 'processor')}, and joblib needs "
                f"{_FEWEST}; add a machine with `ray start --address=HOST:6379`, or leave out "
                "--backend ray"
            )
        where = count(len(nodes), "machine")
        self.name = f"Ray, {count(self.workers, 'worker')} on {where}"
        self.deaths: Deaths = (self._ray.exceptions.RayError,)
        self.ledger = Ledger()

    def _nodes(self) -> dict[str, int]:
        """Return how many processors each node has that is not lost."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        return {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in nodes}

    def _processors(self) -> int:
        """Return how many processors the pool may have that joblib makes."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    def kinds(self) -> Mapping[str, Sequence[str]]:
        nodes: dict[str, list[str]] = {}
        asked = self._ray.remote(kind_of_machine)
        answers = {
            node: asked.options(scheduling_strategy=self._on(node), num_cpus=0).remote()
            for node in self._nodes()
        }
        for node, answer in answers.items():
            with contextlib.suppress(self._ray.exceptions.RayError):  # it was lost just now
                nodes.setdefault(self._ray.get(answer), []).append(node)
        return nodes

    def settings(self, places: Sequence[str] | None) -> tuple[dict[str, Any], int]:
        try:
            nodes, workers = self._nodes(), self._processors()
        except self._ray.exceptions.RayError as error:
            raise NoWorkersError(f"the Ray cluster is lost: {error}") from error
        places = None if places is None else [place for place in places if place in nodes]
        if workers < _FEWEST or places == []:
            left = count(workers, "processor")
            raise NoWorkersError(f"the Ray cluster has lost nodes, and has {left} left")
        config: dict[str, Any] = {"backend": "ray", "n_jobs": workers}
        if places is None:
            return config | {"ray_remote_args": {"num_cpus": 0}}, workers
        place = self._on(places[0]) if len(places) == 1 else "SPREAD"
        config["n_jobs"] = min(max(_FEWEST, len(places)), workers)
        remote = {"num_cpus": 0, "scheduling_strategy": place}
        return config | {"ray_remote_args": remote}, len(places)

    def _on(self, node: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node, soft=False)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._ray.shutdown()


def _require_answer(address: str | None) -> None:
    """Require that a Ray cluster can be connected to.

    Where none answers, Ray tries for minutes, in C++, where no signal ends it: so try elsewhere
    first. Whatever else is wrong, Ray tells.

    Raises:
        UsageError: if none answers.
    """
    limit = str(SECONDS_TO_CONNECT)
    # "auto" is what Ray looks for without an address, but starts no cluster
    tried = [sys.executable, "-c", _CONNECT, limit, address or "auto", *map(str, sys.path)]
    try:
        done = subprocess.run(
            tried,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise UsageError(f"no process can be started: {error.strerror or error}") from error
    if done.returncode < 0:
        where = address or os.environ.get("RAY_ADDRESS") or "the address of the last one here"
        advice = "start one with `ray start --head`"
        if b"Unauthenticated" in done.stderr:  # Ray only says so in its log
            advice = "it asks for another token: see RAY_AUTH_TOKEN in Ray's documentation"
        raise UsageError(f"no Ray cluster answers at {where} within {limit} seconds; {advice}")
