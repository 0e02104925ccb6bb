"""Observables of a trajectory, each with its error, correlation time and number of independent samples."""
