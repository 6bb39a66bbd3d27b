"""What a step reads: text-image pairs, and which of them share a batch."""
