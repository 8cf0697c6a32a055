"""Which clients may call the HTTP interface, and how much."""
