"""The client with async methods. `make docs` derives `dreadnode.http.sync_api` from this folder."""
