"""What holds for all tests: one core for each process, before anything imports torch."""

import os

# Layers this small gain nothing from more threads, and lose much where several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
