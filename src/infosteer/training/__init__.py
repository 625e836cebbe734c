"""Bridges to Trainer, TRL and accelerate; what depends on their versions stands in ``compat``."""
