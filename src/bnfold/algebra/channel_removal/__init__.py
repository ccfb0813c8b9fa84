"""Which channels can go, and the same operators without them."""
