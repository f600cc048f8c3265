"""Dataset files: splits, formats and checks before a push."""
