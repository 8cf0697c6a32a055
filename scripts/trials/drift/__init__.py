"""The trial of drift in virtual time: shifts that must be found, and stationary traffic that must raise no alarm."""
