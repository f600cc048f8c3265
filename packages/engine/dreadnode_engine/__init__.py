"""A server that speaks the Tinker protocol on PyTorch and PEFT."""
