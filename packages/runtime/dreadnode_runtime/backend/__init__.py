"""The interface to a training engine, and its implementation with the tinker SDK."""
