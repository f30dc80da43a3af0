"""What operators' tools see of the daemon: figures for Prometheus, records of calls, lines of JSON, SIP for Homer."""
