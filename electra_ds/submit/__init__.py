"""Jobs of a Slurm cluster: rendering and submitting batch scripts, and what those ask for while a job lives."""
