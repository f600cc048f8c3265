"""The catalog of base models: search, suggestions and routes."""
