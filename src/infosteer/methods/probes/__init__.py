"""Methods that read key coefficients or hidden states and change nothing."""
