"""`dn train`: choose a base model, submit jobs and follow them."""
