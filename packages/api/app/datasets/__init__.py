"""Immutable, versioned data sets and the files behind them."""
