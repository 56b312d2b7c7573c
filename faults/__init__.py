"""Breaks the distributed runtime under load, again and again, and counts what was lost or done twice (docs/faults.md).

Nothing of this is in a process of Haven: its processes are started through `faults.wrapped`, which knows where they may die.
"""
