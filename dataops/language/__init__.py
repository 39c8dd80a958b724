"""Language detection for captions."""
