"""What is done with disks: copying, verifying, comparing, checksums. Knows `Image` and no format."""
