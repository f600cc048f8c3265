"""Serves base models and the weights of jobs: the protocols of OpenAI's and Anthropic's clients."""
