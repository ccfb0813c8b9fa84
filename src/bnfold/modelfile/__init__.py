"""A model between disk and memory."""
