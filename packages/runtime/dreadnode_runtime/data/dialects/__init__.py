"""Readers of the dialects in which conversations are written, one module each."""
