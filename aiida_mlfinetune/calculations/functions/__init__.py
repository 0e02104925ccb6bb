"""Calcfunctions: unpack nodes, call ``science``, pack nodes."""
