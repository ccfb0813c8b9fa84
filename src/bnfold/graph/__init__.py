"""What a graph says: its constants, and the order of its nodes."""
