"""What `seqca.accelerate` changes in the training of other public code bases, run beside the real ones."""
