"""Pictures composed of the embedded ones, with labels and masks."""
