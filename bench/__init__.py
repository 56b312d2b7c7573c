"""Measures Haven beside its anchors: same machine, same database, same run, rounds taken in turn, medians."""
