"""Per-channel affine maps: through which operators they pass, and which ones absorb them."""
