"""Rewrites of both sides of a window, by which equal ones become the same."""
