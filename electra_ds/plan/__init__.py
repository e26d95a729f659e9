"""Before a job is queued: memory, traffic and time of a run, from its recipe and the model itself."""
