"""Tests of the whole product: `dn`, and every process behind it."""
