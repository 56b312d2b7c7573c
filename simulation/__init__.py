"""Haven without people: synthetic shelters and households, calibrated on published figures, the same for the same seed.

Nothing here is real. Where shelters are is secret, so no real shelter can be told from an inventory: identifiers are opaque
and regions are drawn. No statistic of relocations between the three countries was ever published; what is assumed says so.
"""
