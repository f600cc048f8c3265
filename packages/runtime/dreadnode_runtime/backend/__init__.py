"""What the loops ask of a training service, and the tinker SDK behind it."""
