"""Access control for the HTTP interface: which clients may call it, and how often."""
