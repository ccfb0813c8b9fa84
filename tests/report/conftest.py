"""Fixtures of the tests of reports."""

from __future__ import annotations

import pytest


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render pages without their pictures, which take nearly all of the time."""
    monkeypatch.setattr("bnfold.report.html._pictures", lambda record: {})
