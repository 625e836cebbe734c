"""``infosteer eval``: models on benchmark tasks; chance, intervals and failures beside every score."""
