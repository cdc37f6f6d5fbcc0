"""What both stages ask of torch: the device that is meant, and fast products on processors where torch's are slow."""
