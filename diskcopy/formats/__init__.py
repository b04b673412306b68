"""How an image holds a disk: one module or folder per format."""
