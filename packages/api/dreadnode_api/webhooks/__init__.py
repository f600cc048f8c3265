"""Webhooks: who is told of a job's changes of state, and how that is made certain."""
