"""Checkpoints: what a sandbox told of them, and how long they are kept."""
