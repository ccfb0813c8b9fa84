"""The steps of a command, in their order."""
