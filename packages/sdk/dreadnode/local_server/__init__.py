"""A server on this machine, and the supervisor of its processes."""
