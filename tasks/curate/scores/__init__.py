"""Model scores of images, computed once and cached by content."""
