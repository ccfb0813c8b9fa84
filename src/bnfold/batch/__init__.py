"""Many models: which, with which options, on which workers, and what became of them."""
