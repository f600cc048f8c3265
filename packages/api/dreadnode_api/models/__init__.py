"""Every table of the database: the bottom layer."""
