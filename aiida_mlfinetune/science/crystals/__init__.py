"""Crystals and molecules: cells, ices, molecules in crystals, other volumes, spins of atoms."""
