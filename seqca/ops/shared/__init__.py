"""What all operators share: their description, the choice of a backend, casting, samples."""
