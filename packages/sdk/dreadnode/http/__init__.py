"""HTTP: descriptions of calls, retries, and the two typed clients.

`async_api` is written by hand. `make docs` derives `sync_api` from it, so both clients always have
the same methods.
"""
