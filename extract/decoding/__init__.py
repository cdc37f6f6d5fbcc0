"""From media files to what encoders are given: sound and pictures, decoded once, in processes that may die."""
