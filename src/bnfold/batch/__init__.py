"""Many models: which, with which options, on which workers, and the index of what became of them."""
