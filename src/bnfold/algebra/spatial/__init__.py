"""Operators that are linear over space, as arrays and as expressions."""
