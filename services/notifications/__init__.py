"""Telling people that something waits for them, and never what: a queue of our own, and Apprise as the way out.

`rules.py` says who is rung when, `queue.py` keeps what was rung and what failed, `addresses.py` reads the operator's file,
`channels.py` sends, `notifier.py` brings them together.
"""
