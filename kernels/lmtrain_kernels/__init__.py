"""Accelerator kernels of lmtrain: plain functions of tensors and of tables of chunks."""
