"""The control plane as a job sees it: the API, progress events, and experiment trackers."""
