"""Each call to the API, described and not made.

Path, body and the reading of the answer are values. Every description takes the scope first;
`dreadnode.http.methods` makes a method of it for both clients.
"""

from dreadnode.http.calls.call import Call

__all__ = ["Call"]
