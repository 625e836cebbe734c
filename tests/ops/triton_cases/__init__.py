"""The Triton kernels, run step by step on the CPU by Triton's interpreter.

``test_triton`` starts these files in a process of their own, because the interpreter must be asked for before Triton is
imported.
"""
