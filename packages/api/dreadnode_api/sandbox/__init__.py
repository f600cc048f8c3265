"""Sandboxes: the process that trains one job, its supervisor, and the runners that start it."""
