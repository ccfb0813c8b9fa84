"""What a run found out, as plain data."""
