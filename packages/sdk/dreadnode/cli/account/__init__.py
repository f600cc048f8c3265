"""Commands for login, tokens, members and webhooks."""
