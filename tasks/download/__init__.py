"""The download stage: img2dataset behind a safe and polite fetch."""
