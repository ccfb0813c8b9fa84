"""Models as sums of linear operators on their inputs, and how far two sums are apart."""
