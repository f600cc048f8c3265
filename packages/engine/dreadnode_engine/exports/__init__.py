"""Exports of adapters for other programs: merged models, PEFT and GGUF files."""
