"""Files on disk: digests, checksums, JSON."""
