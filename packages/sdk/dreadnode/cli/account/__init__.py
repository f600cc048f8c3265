"""Commands for profiles, tokens, members and webhooks."""
