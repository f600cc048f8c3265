"""Immutable, versioned datasets and the files behind them."""
