"""One job from its record to its end, whatever it trains."""
