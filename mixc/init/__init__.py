"""From a folder of data to a spec: `find` lists what could be a source, `guess` says what its rows are, `write` makes the spec.

The rules are few and told in the spec's comments: what is not recognised is named and left out, never guessed at.
"""
