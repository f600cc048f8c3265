"""Checkpoints of jobs: their records, adapters, exports and retention."""
