"""Who may call the HTTP interface, and how much."""
