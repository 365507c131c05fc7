"""Preference pairs: pair policies, length control, and alarms on the feedback."""
