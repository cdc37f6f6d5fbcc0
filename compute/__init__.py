"""What both stages ask of torch: the device that is meant, exact
and fast float32, memory that is kept, and models recast to compute so."""
