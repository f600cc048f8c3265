"""A server of the Tinker protocol on PyTorch and PEFT."""

import os

# Read when torch is imported. Threads that spin while they wait sample one sequence up to a fifth
# faster on an idle machine, and ten times slower when another process uses the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
