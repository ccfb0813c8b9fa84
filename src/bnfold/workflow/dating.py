"""Says in a record when the run began and how long it took."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import ParamSpec, TypeVar, cast

from bnfold.errors import BnfoldError
from bnfold.record.data import Record
from bnfold.workflow.result import Result

_P = ParamSpec("_P")
_R = TypeVar("_R", bound=Record | Result)


def dated(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Date the record that a function returns, or that what it raises carries."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        started, begun = datetime.now(timezone.utc), time.monotonic()

        def date(record: Record) -> Record:
            seconds = round(time.monotonic() - begun, 3)
            return replace(record, started=f"{started:%Y-%m-%dT%H:%M:%SZ}", seconds=seconds)

        try:
            result = function(*args, **kwargs)
        except BnfoldError as error:
            if error.record is not None:
                error.record = date(error.record)
            raise
        if isinstance(result, Record):
            return cast("_R", date(result))
        return replace(result, record=date(result.record))

    return call
