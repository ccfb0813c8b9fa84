"""What a pass is, and the engine that finds sites and applies rewrites."""
