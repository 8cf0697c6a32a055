"""Connect to addresses from clients' requests, and refuse addresses that are not allowed."""
