"""Dataset rows to conversations, prompts and tokens."""
