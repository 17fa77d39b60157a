"""Corpus to run: recipe, loader, loop, checkpoints, logs."""
