"""What a bundle holds beside weights, and how it is put together and laid on the disk."""
