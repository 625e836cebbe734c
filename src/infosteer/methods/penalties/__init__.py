"""Methods that add a scalar of the key coefficients to the loss."""
