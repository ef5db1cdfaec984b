"""The room of checkpoints: what a run goes on from after it was killed.

What goes in: between two steps, an engine and a `State`, which is a step's number and little more.
What comes out: `RUN/checkpoints/<stage>-<step>/`, whole or not there, and from it the same engine, in any number of processes.

What it promises:

* A run killed at any instant finds the last checkpoint that was published, whole, or the one before.
* A step waits for a copy in memory, not for a disk; a checkpoint under way changes no bit of the training.
* Every file is checked against its digest before it is read. Nothing is ever unpickled.
* What keeps one process from writing stops all of them, at the end of a step, with the last checkpoint as it was.

Read in this order: files.py (what lies on the disk), host.py (the copy), saver.py (behind the steps), leftovers.py (what a killed
run has left half-written). The parts of tensors that a file has are runtime/parts.py's; where an engine keeps them, runtime/held.py's.
"""
