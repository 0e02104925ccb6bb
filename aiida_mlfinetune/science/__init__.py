"""Pure physics and statistics: arrays in, arrays or frozen dataclasses out, no AiiDA."""
