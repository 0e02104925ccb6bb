"""One parser a file; pure text parsing under ``raw``."""
