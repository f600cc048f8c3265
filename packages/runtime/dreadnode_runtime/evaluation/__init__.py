"""Evaluations: loss and rewards of several models on the same rows."""
