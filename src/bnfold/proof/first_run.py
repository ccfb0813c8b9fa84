"""The run of a model that shows which inputs it accepts, and is one of its runs on them."""

from __future__ import annotations

import time
from typing import Any

from bnfold.running.runtime import Feeds, Session

SLOW = 3.0
"""Seconds of one run beyond which there are as few as can be."""


class RememberingSession(Session):
    """A session that knows its last run: the one that has found inputs need not be repeated."""

    _last: tuple[Feeds, dict[str, Any], float] | None = None

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Compute all outputs, by name."""
        self._last = None
        begun = time.monotonic()
        results = super().run(feeds)
        self._last = feeds, results, time.monotonic() - begun
        return results

    def once(self, feeds: Feeds) -> tuple[dict[str, Any], float]:
        """Return all outputs, and the seconds that it took to compute them.

        A first run that took long is repeated: it may have been a slow one.

        Raises:
            SessionError: if onnxruntime cannot run the model on these inputs.
        """
        if self._last is None or self._last[2] > SLOW or not _are_same(self._last[0], feeds):
            self.run(feeds)
        assert self._last is not None
        (_, results, seconds), self._last = self._last, None
        return results, seconds


def _are_same(feeds: Feeds, others: Feeds) -> bool:
    """Say whether inputs are the same to the bit."""
    return feeds.keys() == others.keys() and all(
        content.dtype == others[name].dtype
        and content.shape == others[name].shape
        and content.tobytes() == others[name].tobytes()
        for name, content in feeds.items()
    )
