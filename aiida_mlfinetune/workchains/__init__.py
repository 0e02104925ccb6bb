"""Work chains: they wire processes, and build no data."""
