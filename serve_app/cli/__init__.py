"""The command-line programs of Sightline."""
