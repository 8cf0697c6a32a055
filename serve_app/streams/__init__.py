"""Live video: streams capture sources continuously and share the Detector replicas with the HTTP API."""
