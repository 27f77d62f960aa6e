"""Accelerator kernels of lmtrain. There are none yet: every operation runs on torch."""
