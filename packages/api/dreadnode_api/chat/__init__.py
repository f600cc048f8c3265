"""Chat with a job's weights."""
