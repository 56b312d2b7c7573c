"""The services: each accepts what reaches it, decides in its pure `domain`, and writes only to its own log."""
