"""Placement decides what becomes of a relocation request: whom to ask, whose signature counts, what happens next.

It owns requests, asks, signatures, consent and the journey. It never decides whether a bed is free: capacity does.
"""
