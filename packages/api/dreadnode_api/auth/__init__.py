"""Organizations, workspaces, users, roles and tokens."""
