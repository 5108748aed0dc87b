"""Reports of runs: log, HTML report, comparison, console tables. They read the run folder's files and nothing else."""
