"""HTTP for every domain: limits, error responses, dependencies and health."""
