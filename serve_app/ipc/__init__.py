"""What processes of one node share: model inputs in shared memory, and calls over Unix sockets."""
