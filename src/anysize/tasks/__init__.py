"""Tasks: what differs between kinds of targets. The loop, the evaluation and the reports never ask which task runs."""
