"""What several files of tests of proofs share."""

from __future__ import annotations

import pytest

from bnfold.proof.certificates import certificate


@pytest.fixture
def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave all windows to the other proofs: the one by weights comes before them."""
    monkeypatch.setattr(certificate, "prove_weights", lambda window: None)
