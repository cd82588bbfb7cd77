"""Data for training: readers, synthetic documents, batches."""
