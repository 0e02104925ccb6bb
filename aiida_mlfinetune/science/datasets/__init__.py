"""Frames and their labels: reading, checking, choosing, splitting, comparing, judging."""
