"""The weights of the encoders: where they come from, fetching and verifying them, and drawing random ones."""
