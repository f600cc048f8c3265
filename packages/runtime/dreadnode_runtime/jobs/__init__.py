"""One job of either kind, from its record to its end."""
