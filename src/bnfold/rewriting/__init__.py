"""The contract of passes, and the engine that finds sites and applies rewrites."""
