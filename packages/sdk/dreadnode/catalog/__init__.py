"""The catalog of base models: types, search, suggestions, JSON, and its refresh.

The table itself is `dreadnode.training.models`.
"""
