"""What is measured: similarity of layers, tokens, attention maps, accuracy."""
