"""What the engine keeps on disk, and how it comes back after a kill."""
