"""How the whole of Haven is started on real parts: the peers themselves, and what they are told about us."""
