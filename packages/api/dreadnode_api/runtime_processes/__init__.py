"""Short-lived processes of the runtime that answer one question."""
