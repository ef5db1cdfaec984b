"""Signals: numbers and labels of each sample, computed once for each object and kept beside it in the cache."""
