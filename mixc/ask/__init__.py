"""Asking a model: questions to prompts, and what its program says to answers."""
