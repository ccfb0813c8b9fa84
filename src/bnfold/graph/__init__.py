"""What passes read from a graph: its constants, and the order of its nodes."""
