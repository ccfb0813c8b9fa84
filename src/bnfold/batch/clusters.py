"""Clusters whose workers joblib drives: Dask's and Ray's."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any
from urllib.parse import urlsplit

from bnfold.api import kind_of_machine
from bnfold.batch.engine import Deaths, require
from bnfold.batch.starts import Ledger
from bnfold.errors import UsageError
from bnfold.report.wording import count

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
        found: dict[str, list[str]] = {}
        hosts: set[tuple[str, str]] = set()
        for worker, kind in sorted(self._client.run(kind_of_machine).items()):
            if (kind, _host(worker)) not in hosts:
                hosts.add((kind, _host(worker)))
                found.setdefault(kind, []).append(worker)
        return found

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


class Ray:
    """The processors of a Ray cluster."""

    def __init__(self, address: str | None) -> None:
        self._ray = require("ray", "ray")
        require("joblib", "joblib")
        joblib_for_ray = require("ray.util.joblib", "ray")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
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
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        processors = [int(node["Resources"].get("CPU", 0)) for node in nodes]
        self._nodes = [node["NodeID"] for node in nodes]
        self.workers, self.sharers = max(1, sum(processors)), max([1, *processors])
        where = count(len(nodes), "machine")
        self.name = f"Ray, {count(self.workers, 'worker')} on {where}"
        self.deaths: Deaths = (self._ray.exceptions.RayError,)
        self.ledger = Ledger()

    def kinds(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        asked = self._ray.remote(kind_of_machine)
        answers = [
            asked.options(scheduling_strategy=self._on(node), num_cpus=0).remote()
            for node in self._nodes
        ]
        for node, kind in zip(self._nodes, self._ray.get(answers), strict=True):
            found.setdefault(kind, []).append(node)
        return found

    def settings(self, places: Sequence[str] | None) -> tuple[dict[str, Any], int]:
        config: dict[str, Any] = {"backend": "ray", "n_jobs": max(2, self.workers)}
        if places is None:
            return config | {"ray_remote_args": {"num_cpus": 0}}, self.workers
        place = self._on(places[0]) if len(places) == 1 else "SPREAD"
        remote = {"num_cpus": 0, "scheduling_strategy": place}
        return config | {"n_jobs": max(2, len(places)), "ray_remote_args": remote}, len(places)

    def _on(self, node: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node, soft=False)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._ray.shutdown()
