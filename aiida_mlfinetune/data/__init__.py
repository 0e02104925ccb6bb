"""Content-addressed nodes: datasets, models and observables."""
