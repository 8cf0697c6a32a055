"""Read a ``.pt`` file that nobody has declared as trusted, without running anything that it contains.

A ``.pt`` file is a pickle. ``convert`` starts a separate process (``reader``), which reads the file with an unpickler
that makes no object of a class that the file names (``unpickler``). The process writes the weights, the architecture
and the class names to a ``.safetensors`` file. From that file, an engine builds the network again.
"""
