"""The protocol's messages: decoded, encoded and checked."""
