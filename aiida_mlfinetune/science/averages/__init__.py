"""Averages over correlated runs, with errors that can be trusted."""
