"""dreadnode training: the catalog, the typed client and the `dn` command."""
