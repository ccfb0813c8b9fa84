"""On a CUDA device. Elsewhere skipped, with the diagnosis that a user would get."""

from __future__ import annotations

from pathlib import Path

import pytest

import bnfold
from bnfold.errors import ProviderError
from bnfold.runtime import require_provider

SAMPLES = sorted((Path(__file__).parent.parent / "models").glob("*.onnx"))


@pytest.fixture(autouse=True)
def _cuda() -> None:
    try:
        require_provider("cuda")
    except ProviderError as error:
        pytest.skip(str(error))


@pytest.mark.cuda
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_equivalent_on_cuda(path: Path) -> None:
    record = bnfold.optimize(
        path, options=bnfold.RunOptions(providers=["cuda"]), bench=False
    ).record
    assert record.equivalence is not None
    assert record.equivalence.verdict == ("pass" if record.rewrites else "identical")
