"""Webhooks: messages about changes of job status, delivered at least once."""
