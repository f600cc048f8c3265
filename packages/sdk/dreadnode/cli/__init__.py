"""The `dn` command: each command reads, calls and shows."""
