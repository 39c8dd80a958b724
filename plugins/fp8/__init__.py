"""Matrix products of transformer blocks in fp8."""
