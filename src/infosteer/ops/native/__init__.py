"""Native code for rows of key coefficients on a CPU, compiled when it is first wanted."""
