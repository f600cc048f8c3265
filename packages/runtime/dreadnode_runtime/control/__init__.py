"""The control plane as a job uses it: API client, events and experiment trackers."""
