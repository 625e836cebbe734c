"""The machinery every method shares: contract, configuration, registry, schedules, ledger and session."""
