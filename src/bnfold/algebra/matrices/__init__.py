"""Operators that are linear in the last axis, as matrices."""
