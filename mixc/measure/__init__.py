"""Measure: fragments become objects. Tokenise, probe images, count, name; each fragment once, kept by digest."""
