"""What passes compute with: affine maps, linear operators, pools and elementwise functions."""
