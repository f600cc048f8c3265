"""Serves the weights of one checkpoint, or of a base model: many requests at once, streamed."""
