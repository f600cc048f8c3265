"""The HTTP clients: calls, transport and retries."""
