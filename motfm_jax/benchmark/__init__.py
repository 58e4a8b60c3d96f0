"""How fast the networks, their training and their data are, measured beside others in turn."""
