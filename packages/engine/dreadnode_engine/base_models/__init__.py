"""Base models on disk: found and fingerprinted."""
