"""The GPU backend: a loop becomes one Triton kernel; what is outside of loops runs on torch's tensors.

A Graph is run node by node on the device (`run`, `tensors`). A Loop is specialised to the shapes that it
meets (`specialise`), what need not wait for the step before is moved out of it as batched operations
(`split`, `batch`), its axes are divided among programs (`axes`), and one kernel is written for all steps
(`emit`, `scalars`), compiled and launched (`kernels`).
"""
