"""Models, adapters, training steps and sampling: everything that computes."""
