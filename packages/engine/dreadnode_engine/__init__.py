"""A server that speaks the Tinker protocol on PyTorch and PEFT."""

import os

# Read once, when torch is imported. Threads that spin while they wait for each other are a little
# quicker on an idle machine, and ten times slower as soon as anything else wants its cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
