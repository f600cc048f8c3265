"""Prices: the rates of a model, token counts by kind, and what a job costs."""
