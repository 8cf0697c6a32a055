"""The protocols of other servers, one file each, so that their clients can use this server instead."""
