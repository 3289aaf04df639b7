"""The native CPU backend: Graphs as LLVM machine code."""
