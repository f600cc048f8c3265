"""Which request computes next, and what stays in memory."""
