"""Renderings of a `bnfold.record.Record`."""
