"""Supervised fine-tuning: batches, the loop and its metrics."""
