"""Kernels compiled by numba, and the proofs that they rest on."""
