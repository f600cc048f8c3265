"""Several workers that serve as one engine: a router, and the processes or actors behind it."""
