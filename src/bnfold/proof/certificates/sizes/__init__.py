"""At which sizes a window is proven, so that it holds at all of them."""
