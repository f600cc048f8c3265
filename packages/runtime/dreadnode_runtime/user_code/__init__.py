"""A user's own Python code, run in confined processes."""
