"""Supervised fine-tuning: the job, its loop and its metrics."""
