"""Rewards: built-in recipes, combinations of them, and a user's own function."""
