"""Reward recipes and their combinations."""
