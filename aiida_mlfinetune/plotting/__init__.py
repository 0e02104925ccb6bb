"""Figures: functions of an axis and arrays."""
