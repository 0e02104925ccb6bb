"""Nodes to one self-contained HTML page."""
