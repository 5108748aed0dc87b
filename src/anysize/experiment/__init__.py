"""From a recipe to a run folder, and from a run folder to numbers: what the verbs of the command line call."""
