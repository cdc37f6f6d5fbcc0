"""Features from and for everybody else's code: HDF5, npy, Arrow, CSV, and the files of MMSA, CMU's SDK and MERTools."""
