"""Communication between processes of one node: model inputs in shared memory, and calls over Unix sockets."""
