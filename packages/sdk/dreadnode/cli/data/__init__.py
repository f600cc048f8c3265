"""Commands for datasets and capabilities."""
