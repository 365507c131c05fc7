"""Pair selection, length control and alarms."""
