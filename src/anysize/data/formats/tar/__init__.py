"""Images in tar archives, read where they lie: nothing is unpacked."""
