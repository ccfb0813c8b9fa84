"""The steps of a command, in order."""
