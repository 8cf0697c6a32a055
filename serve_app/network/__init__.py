"""Connect to addresses that clients name, through a guard."""
