"""Threads of matrix products are shared for a while, and all there again afterwards."""

from __future__ import annotations

import pytest
from threadpoolctl import threadpool_info

from bnfold.running import sharing


def threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize(("processors", "processes", "share"), [(8, 2, 4), (2, 2, 1), (1, 2, 1)])
def test_a_process_takes_its_share(
    monkeypatch: pytest.MonkeyPatch, processors: int, processes: int, share: int
) -> None:
    before = threads()
    assert before
    monkeypatch.setattr(sharing, "available_threads", lambda: processors)
    with sharing.sharing(processes):
        assert max(threads()) <= share
    assert threads() == before
