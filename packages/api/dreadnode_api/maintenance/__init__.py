"""The maintenance of a server: cleanup of old data, and backups."""
