"""AiiDA workflows from a crystal to its finite-temperature properties with fine-tuned MACE models."""

__version__ = "0.1.0"
