"""The API's copy of the base-model catalog; the service itself is `dreadnode_api`."""
