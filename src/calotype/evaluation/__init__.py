"""Measures of what was trained."""
