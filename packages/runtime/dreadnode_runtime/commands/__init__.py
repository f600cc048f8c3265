"""The short-lived commands of the runtime: check, chat and export."""
