"""The routes of Tinker's protocol, request validation and access."""
