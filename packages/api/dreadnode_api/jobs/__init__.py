"""The jobs table, which is the queue, and the dispatcher that runs its jobs."""
