"""Generates the pages that follow from the code: passes, commands, and the record."""
