"""Search, suggestions and routes of the base-model catalog."""
