"""Compares bnfold with other tools and with its own past. Run from the repository's root.

`python -m benchmarks.suite --build` makes the models, `python -m benchmarks.compare` measures and
writes `docs/benchmarks/`, and `python -m benchmarks.regression OLD` compares the cost of two
commits of bnfold.
"""
