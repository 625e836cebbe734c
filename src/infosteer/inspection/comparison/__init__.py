"""Runs and evaluations against each other: what may be paired, tests and corrections, and tables for every use."""
