"""Methods that edit key coefficients in the forward pass."""
