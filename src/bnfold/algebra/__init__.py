"""The algebra that passes use: affine maps, linear operators, pools and elementwise functions."""
