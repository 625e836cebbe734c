"""Readers of models and runs: probes over texts and memories, and the report of a run as one HTML page."""
