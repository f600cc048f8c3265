"""The control plane: catalog mirror, jobs, dispatcher, runners and datasets."""
