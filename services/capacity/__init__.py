"""Capacity decides one thing: which bed is whose, and for how long.

It owns units, beds, holds and the freshness of reports. It does not know why a bed is wanted, and never ranks.
"""
