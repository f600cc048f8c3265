"""What clients may call: sessions, runs, samplers, results, checkpoints, keys, clean-up."""
