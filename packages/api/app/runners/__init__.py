"""What starts a sandbox and ends it."""
