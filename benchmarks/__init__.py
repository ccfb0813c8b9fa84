"""Compares bnfold with other tools, and with its own past. Run from the root of the repository.

`python -m benchmarks.suite --build` makes the models, `python -m benchmarks.compare` measures and
writes `docs/benchmarks/`, and `python -m benchmarks.regression OLD` compares what two commits of
bnfold cost to run.
"""
