"""A short check of everything that needs an NVIDIA GPU, for a machine without network: see ``__main__``."""
