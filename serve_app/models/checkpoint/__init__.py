"""Read a ``.pt`` file that nobody has declared as trusted, without running anything that it contains.

A ``.pt`` file is a pickle. ``convert`` starts a separate process (``reader``), which reads the file with our own
unpickler (``unpickler``). The file names classes, but this unpickler creates no objects of them. The process writes
the weights, the architecture and the class names to a ``.safetensors`` file. From that file, an engine builds the
network again.
"""
