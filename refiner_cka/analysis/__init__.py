"""The run: what is refused early, what a forward pass shows, the loop over batches."""
