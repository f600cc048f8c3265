"""Capabilities: named, versioned system prompts with what is known of them."""
