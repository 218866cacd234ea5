"""Engines that do their works on the machines of a cluster: of Ray's, and of Slurm's."""
