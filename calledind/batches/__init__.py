"""Calls for many numbers that one request gave: kept as files, made at a rate, and gone on with after a crash."""
