"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from bnfold.record.data import SpeedRecord
from bnfold.speed import measure as speed


@pytest.fixture(autouse=True)
def no_time_for_timing() -> Iterator[None]:
    """Let `optimize` and `bench` take one turn only: no test is about how fast anything is."""

    compare_speed = speed.compare_speed

    def hasty(*arguments: Any, **options: Any) -> SpeedRecord:
        return compare_speed(*arguments, **{**options, "seconds": 0})

    with mock.patch("bnfold.speed.cases.compare_speed", hasty):
        yield
