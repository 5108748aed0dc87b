"""The kinds of targets, one file a kind: what loading, evaluation, pictures and checks do otherwise for each."""
