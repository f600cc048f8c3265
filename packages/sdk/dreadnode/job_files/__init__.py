"""Training jobs as TOML files."""
