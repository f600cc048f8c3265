"""What runs inside a sandbox: the training loops and the checks before them."""
