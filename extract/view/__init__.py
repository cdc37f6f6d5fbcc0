"""Pictures of what is in a store: one utterance over time, and a whole feature as points in a plane."""
