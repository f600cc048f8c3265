"""A server on this machine: its processes, and what keeps them running."""
