"""The jobs table, which is the queue, and the dispatcher that works it off."""
