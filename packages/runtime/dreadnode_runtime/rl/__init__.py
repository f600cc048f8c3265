"""Reinforcement learning: rollouts, the loop and its metrics."""
