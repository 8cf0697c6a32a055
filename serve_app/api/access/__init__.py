"""Access control for the HTTP interface: who may call it, and how often."""
